"""The three data sets of a run, as `load` gives them and as they are read."""

from typing import Any, NamedTuple

from metronome.data.rows import as_dataset, is_rows
from metronome.data.streams.reader import check_streams, is_stream
from metronome.units import InputError


class Splits(NamedTuple):
    """The three data sets of a run. Each is a map-style Dataset, or tensors or arrays in any nesting
    (`(x, y)`, `{"image": x, "label": y}`), one row a sample. Frames and series of pandas and polars are taken for
    arrays, and floats are read in the type of the weights. What does not fit into memory (arrays mapped from files,
    Arrow tables, data sets of Hugging Face's: `README.md`) is read a batch at a time. For training it may be a Mixture
    of data sets too, or a stream: an IterableDataset, or anything that can be iterated over again and again. A split
    that is None is skipped."""

    train: Any
    val: Any = None
    test: Any = None


def data_sets_of(module: Any, given: Any, stays_on_device: bool) -> Splits:
    """What a data module's `load` has returned, as data sets.

    Args:
        module: that has loaded them.
        given: what `load` has returned.
        stays_on_device: whether all of them must be kept there.

    Raises:
        InputError: for what is no Splits, an empty data set, or one that cannot be read as the module says.
    """
    name = type(module).__name__
    if not isinstance(given, tuple) or len(given) != len(Splits._fields):
        raise InputError(
            f"{name}.load() must return Splits(train, val, test), and returns a "
            f"{type(given).__name__}{f' of {len(given)}' if isinstance(given, tuple | list) else ''}"
        )
    kinds = ("training", "validation", "test")
    check_streams(module, dict(zip(kinds, given, strict=True)))
    train, val, test = (s if s is None or is_stream(s) else as_dataset(s, module.collate) for s in given)
    sized = [(kind, s) for kind, s in zip(kinds, (train, val, test), strict=True) if s is not None and not is_stream(s)]
    for kind, split in sized:
        if len(split) == 0:
            raise InputError(f"the {kind} data set of {name} is empty")
        if stays_on_device and not (is_rows(split) and not split.is_stored):
            sample_by_sample = f"a {type(split).__name__}, which is read sample by sample"
            is_what = "stored, and only batches of it are read" if is_rows(split) else sample_by_sample
            raise InputError(
                f"data.on_device=true keeps tensors and arrays, and the {kind} data set of {name} "
                f"is {is_what}; use data.on_device=auto"
            )
    return Splits(train, val, test)
