"""Files of arrays and tables, opened by their names without reading them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metronome.data.stored.mapped import MappedArray
from metronome.data.stored.stored import Stored
from metronome.units import InputError

_WRITTEN = 2**26  # bytes of a parquet file that are converted at once
_KINDS = ".npy, .safetensors, .arrow, .feather or .parquet"
# What a safetensors file calls the types of its numbers; those that NumPy has none for are read as bytes and renamed.
_SAFETENSORS: dict[str, tuple[str, torch.dtype | None]] = {
    "F64": ("<f8", None), "F32": ("<f4", None), "F16": ("<f2", None), "BF16": ("<i2", torch.bfloat16),
    "I64": ("<i8", None), "I32": ("<i4", None), "I16": ("<i2", None), "I8": ("i1", None), "U64": ("<u8", None),
    "U32": ("<u4", None), "U16": ("<u2", None), "U8": ("u1", None), "BOOL": ("?", None),
    "F8_E4M3": ("i1", torch.float8_e4m3fn), "F8_E5M2": ("i1", torch.float8_e5m2),
}  # fmt: skip


def mapped(path: str | Path, columns: Sequence[str] | None = None) -> Any:
    """What is in a file, for the splits of a data set: of a file of any size only the rows of a batch are read.

        train = mapped("train.safetensors")
        return Splits(train=(train["x"], train["y"]), val=(mapped("val_x.npy"), mapped("val_y.npy")))

    Args:
        path: `.npy`: a column. `.safetensors`: a dict of columns. `.arrow` or `.feather`, not compressed: a table, of
            which a batch is a dict. `.parquet`, which is compressed: the same, from an Arrow file that is written
            beside it at first, group of rows by group of rows, and again when the parquet file is another.
        columns: of a file that has several, those to read; None: all.

    Raises:
        InputError: for a file that is not there, is cut short, or is of none of these kinds.
    """
    path = Path(path).expanduser()
    kind = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if kind == ".npy":
        return MappedArray(_npy(path))
    if kind == ".safetensors":
        return _chosen(_safetensors(path), path, columns)
    if kind in (".arrow", ".feather", ".parquet"):
        return _table(path, columns)
    raise InputError(f"cannot map {path}; what can be mapped is {_KINDS}")


def _npy(path: Path) -> Any:
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        if isinstance(error, EOFError) or "mmap length" in str(error):
            raise InputError(f"{path} is cut short: {error}; copy it anew") from error
        if "Python objects" in str(error):
            raise InputError(
                f"{path} holds Python objects; make numbers of them, as with x.astype('float32')"
            ) from error
        raise InputError(f"{path} is no array that np.save wrote: {error}") from error
    if found.ndim == 0:
        raise InputError(f"{path} holds one number, and a column of a data set has one for each sample")
    return found


def _safetensors(path: Path) -> dict[str, Stored]:
    """The format: 8 bytes that say how long the header is; the header, in JSON; the tensors, one after the other."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise InputError(f"{path} is no safetensors file, or is cut short; copy it anew")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise InputError(f"{path} is no safetensors file: its header is no JSON") from error
    header.pop("__metadata__", None)
    if (needed := 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)) > size:
        raise InputError(f"{path} is cut short: it has {size:,} bytes of {needed:,}; copy it anew")
    found: dict[str, Stored] = {}
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    for name, entry in header.items():
        if entry["dtype"] not in _SAFETENSORS:
            raise InputError(f"{name} in {path} is of the type {entry['dtype']}, which cannot be mapped; convert it")
        dtype, kind = _SAFETENSORS[entry["dtype"]]
        start, _ = entry["data_offsets"]
        if not entry["shape"]:
            continue  # one number for all is no column
        found[name] = MappedArray(np.ndarray(entry["shape"], dtype, whole, 8 + length + start), kind)
    return found


def _chosen(found: dict[str, Stored], path: Path, columns: Sequence[str] | None) -> dict[str, Stored]:
    _check_there(columns, list(found), path)
    return found if columns is None else {name: found[name] for name in columns}


def _check_there(columns: Sequence[str] | None, names: list[str], path: Path) -> None:
    for name in columns or ():
        if name not in names:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(names)}")


# ---- Arrow ---------------------------------------------------------------------------------------------------


def _table(path: Path, columns: Sequence[str] | None) -> Stored:
    try:
        import pyarrow  # pyright: ignore
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs pyarrow: pip install -e '.[data]'") from error
    from metronome.data.stored.tables import Table

    try:
        table = _read(_as_arrow(path) if path.suffix.lower() == ".parquet" else path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of what is in the file
            raise
        raise InputError(f"{path} is no whole Arrow or parquet file: {' '.join(str(error).split())}") from error
    _check_there(columns, table.column_names, path)
    return Table(table if columns is None else table.select(list(columns)), opened=(mapped, (path, columns)))


def _read(path: Path) -> Any:
    """The table in an Arrow file, or in a stream kept in a file, as datasets writes them; none of it is read."""
    import pyarrow  # pyright: ignore

    def opened() -> Any:
        source = pyarrow.memory_map(os.fspath(path))
        try:
            return pyarrow.ipc.open_file(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            return pyarrow.ipc.open_stream(source)

    reader, before = opened(), pyarrow.total_allocated_bytes()
    if hasattr(reader, "get_batch"):
        first = reader.get_batch(0) if reader.num_record_batches else None
    else:
        first = next(reader, None)
    if first is not None and pyarrow.total_allocated_bytes() - before > first.nbytes / 2:
        raise InputError(
            f"{path} is compressed, and to read any of it takes all of it into memory; write it with "
            "pyarrow.feather.write_feather(table, path, compression='uncompressed')"
        )
    return opened().read_all()


def _as_arrow(path: Path) -> Path:
    """The Arrow file beside a parquet file, written first where it is not there or is of another."""
    import pyarrow  # pyright: ignore
    from pyarrow import parquet  # pyright: ignore

    made = path.with_name(path.name + ".arrow")
    state = path.stat()
    if made.exists() and made.stat().st_mtime_ns >= state.st_mtime_ns:
        return made
    part = made.with_name(f"{made.name}.{os.getpid()}.part")
    try:
        with (
            parquet.ParquetFile(path) as file,
            pyarrow.OSFile(os.fspath(part), "wb") as sink,
            pyarrow.ipc.new_file(sink, file.schema_arrow) as writer,
        ):
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
            at_once = min(2**16, max(1, _WRITTEN * file.metadata.num_rows // max(1, size)))
            for batch in file.iter_batches(batch_size=at_once):
                writer.write_batch(batch)
        os.replace(part, made)
    except OSError as error:
        if isinstance(error, PermissionError) or not os.access(path.parent, os.W_OK):
            raise InputError(
                f"{path.parent} cannot be written to, where {made.name} is to be made; put {path.name} elsewhere"
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return made
