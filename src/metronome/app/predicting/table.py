"""Predictions as a table: a row a sample, a column a number."""

import csv
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.training.checkpoints.files import written_aside
from metronome.units import InputError

MOST_CLASSES = 20  # of which each has a column for its probability, unless told otherwise
TOP = 5  # else the columns are of the most probable ones
_MOST_COLUMNS = 10_000
_MOST_LETTERS = 80  # in a line of the terminal
_KINDS = (".csv", ".parquet")
Columns = dict[str, np.ndarray]


def joined(batches: Sequence[Any], name: str) -> dict[str, Tensor | list[Any]]:
    """What `predict_step` gave, batch by batch, as one part for all samples.

    Args:
        batches: tensors, or tuples or dicts of tensors or lists, with a row a sample.
        name: of the module, for words.

    Raises:
        InputError: for anything else.
    """
    parts: dict[str, list[Any]] = {}
    for batch in batches:
        for key, part in _named(batch).items():
            parts.setdefault(key, []).append(part)
    found: dict[str, Tensor | list[Any]] = {}
    for key, pieces in parts.items():
        if all(isinstance(piece, Tensor) and piece.ndim for piece in pieces):
            found[key] = torch.cat(pieces)
        elif all(isinstance(piece, list | tuple) for piece in pieces):
            found[key] = [item for piece in pieces for item in piece]
        else:
            kinds = ", ".join(sorted({"a scalar" if isinstance(p, Tensor) else type(p).__name__ for p in pieces}))
            raise InputError(
                f"{name}.predict_step gives {kinds} for {key}, and a table takes tensors or lists, a row a sample; "
                "return a tensor, or a tuple or dict of them"
            )
    if len({len(part) for part in found.values()}) > 1:
        lengths = ", ".join(f"{key} {len(part):,}" for key, part in found.items())
        raise InputError(f"{name}.predict_step gives parts of different lengths: {lengths}; each has a row a sample")
    if not found:
        raise InputError(f"{name}.predict_step gives nothing; return a tensor, or a tuple or dict of them")
    return found


def _named(batch: Any) -> dict[str, Any]:
    if isinstance(batch, Mapping):
        return {str(key): part for key, part in batch.items() if part is not None}
    if isinstance(batch, tuple | list) and any(isinstance(part, Tensor) for part in batch):
        return {f"output_{i}": part for i, part in enumerate(batch)}
    return {} if batch is None else {"prediction": batch}


def columns_of(parts: Mapping[str, Tensor | list[Any]], name: str, top: int | None = None) -> Columns:
    """A column for each number, `index` first and probabilities last.

    Args:
        parts: what `joined` gives. A part of shape (samples, k) has k columns.
        name: of the module, for words.
        top: of each sample only the most probable classes, so many; None: where there are more than 20 classes, 5.
    """
    columns: Columns = {"index": np.arange(len(next(iter(parts.values()))))}
    last: Columns = {}
    for key, part in parts.items():
        if key == "probability" and isinstance(part, Tensor) and part.ndim == 2:
            last = _probabilities(part, top)
        elif isinstance(part, Tensor):
            columns |= _columns(key, part, name)
        else:
            columns[key] = np.array([str(item) for item in part], dtype=object)
    return columns | last


def _columns(key: str, part: Tensor, name: str) -> Columns:
    array = part.detach().cpu()
    array = (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    if array.ndim == 1:
        return {key: array}
    if array.ndim > 2 or array.shape[1] > _MOST_COLUMNS:
        raise InputError(
            f"{name}.predict_step gives {key} of shape {tuple(array.shape)}, and a table takes (samples,) or (samples, "
            f"columns), of {_MOST_COLUMNS:,} at most; let predict_step return what belongs into it"
        )
    return {key if array.shape[1] == 1 else f"{key}_{j}": array[:, j] for j in range(array.shape[1])}


def _probabilities(part: Tensor, top: int | None) -> Columns:
    classes = part.shape[1]
    if top is None and classes <= MOST_CLASSES:
        return {f"p_{j}": column for j, column in enumerate(part.cpu().numpy().T)}
    values, order = part.sort(dim=1, descending=True, stable=True)
    columns: Columns = {}
    for j in range(min(top or TOP, classes)):
        columns |= {f"top_{j + 1}": order[:, j].cpu().numpy(), f"p_top_{j + 1}": values[:, j].cpu().numpy()}
    return columns


# ---- files --------------------------------------------------------------------------------------------


def check_table(path: Path) -> None:
    """Before anything is computed. Raises InputError for a kind of table that is not, or cannot be, written."""
    if path.suffix.lower() not in _KINDS:
        raise InputError(f"--out {path} is no kind of table that is written here; use {' or '.join(_KINDS)}")
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name a file in it")
    if path.suffix.lower() == ".parquet":
        _arrow()


def write_table(columns: Columns, path: Path) -> None:
    """Whole or not at all, by the ending of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".parquet":
        arrow, parquet = _arrow()
        table = arrow.table({name: list(v) if v.dtype == object else v for name, v in columns.items()})
        with written_aside(path, "wb") as file:
            parquet.write_table(table, file)
        return
    with written_aside(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*map(in_words, columns.values()), strict=True))


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            "a table as .parquet needs a package that is not there: pip install pyarrow; or write a .csv"
        ) from error


def in_words(column: np.ndarray) -> list[str]:
    """Each number in as few digits as say it exactly, in its own precision."""
    return [str(value) for value in column] if column.dtype == object else column.astype(str).tolist()


def head(columns: Columns, rows: int = 5) -> str:
    """The first rows, and as many columns as a terminal shows."""
    shown: list[list[str]] = []
    for name, column in columns.items():
        cells = [f"{v:.4g}" if column.dtype.kind == "f" else str(v) for v in column[:rows]]
        width = max(map(len, [name, *cells]))
        shown.append([cell.rjust(width) for cell in [name, *cells]])
        if len("  ".join(cells[0] for cells in shown)) > _MOST_LETTERS - 5:  # room for the dots
            shown[-1] = ["..."] + [""] * len(cells)
            break
    return "\n".join("  ".join(line).rstrip() for line in zip(*shown, strict=True))
