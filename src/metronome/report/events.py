"""The curves of a run, from TensorBoard's event files."""

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

_HEADER = struct.Struct("<QI")  # the length of a record in bytes, and the checksum of that length
_CHECKSUM_BYTES = 4  # of the record, behind it
# Groups of tags that are for TensorBoard to show: what is watched in a training, and curves whose steps are samples.
_WATCHED = ("watch/", "by_samples/")
_RATE = "watch/lr"  # the learning rate, which is `lr` to all but TensorBoard
_BEST = "_best"  # of a metric, as far as the run had come
_MOST_STEPS = 2**53  # from where on floating-point numbers cannot count


@dataclass(frozen=True)
class Curve:
    """The values of a scalar, in the order of the steps, one a step.

    Lightning writes what belongs to the step with index s (the first is 0) under s, and what is measured at the end of
    an epoch, the validation too, under the index of the last step before. So `steps` is s + 1: the number of steps
    (parameter updates) done when step s was. `seconds` are since the beginning of the run, without the time between
    its starts if there were several.
    """

    steps: np.ndarray
    values: np.ndarray
    seconds: np.ndarray


def read_curves(folder: Path) -> tuple[dict[str, Curve], list[str]]:
    """Every metric in the event files of a run, by its tag, and what could not be read, and why.

    A file that ends within a record is one that is being written, or whose writer was killed: what is whole counts.
    """
    problems: list[str] = []
    starts: list[tuple[float, float, list[tuple[str, int, float, float]]]] = []
    for file in sorted(folder.rglob("*tfevents*")):
        try:
            start = _read_file(file, problems)
        except OSError as error:
            problems.append(f"{file.name}: {error.strerror}")
            continue
        if start is not None:
            starts.append(start)
    starts.sort(key=lambda start: start[0])
    points: dict[str, list[tuple[int, float, float]]] = {}
    end: float | None = None
    away = 0.0  # seconds between the starts so far
    for begin, last, scalars in starts:
        if end is not None and begin > end:
            away += begin - end
        for tag, step, value, wall_time in scalars:
            name = tag.removeprefix(_WATCHED[0]) if tag.startswith(_RATE) else tag
            points.setdefault(name, []).append((step + 1, value, wall_time - starts[0][0] - away))
        end = last if end is None else max(end, last)
    metrics = [tag for tag in points if not (tag.startswith(_WATCHED) or _is_best(tag, points))]
    return {tag: _curve(points[tag]) for tag in metrics}, problems


def _is_best(tag: str, tags: Collection[str]) -> bool:
    return tag.endswith(_BEST) and tag.removesuffix(_BEST) in tags


def _curve(rows: list[tuple[int, float, float]]) -> Curve:
    """A step that was done again counts as it was the last time."""
    table = np.array(rows, dtype=np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    is_last = np.append(table[1:, 0] != table[:-1, 0], True)
    steps, values, seconds = table[is_last].T
    return Curve(steps.astype(np.int64), values, seconds)


def _read_file(file: Path, problems: list[str]) -> tuple[float, float, list[tuple[str, int, float, float]]] | None:
    """When the file begins and ends, and (tag, step, value, wall time) of its scalars. None if it holds no event."""
    scalars: list[tuple[str, int, float, float]] = []
    begin: float | None = None
    last = 0.0
    try:
        for record in _records(file.read_bytes()):
            event = event_pb2.Event.FromString(record)  # pyright: ignore
            time = event.wall_time
            if not (0 <= event.step < _MOST_STEPS and math.isfinite(time)):
                raise ValueError("a step or a time that cannot be")
            begin = time if begin is None else begin
            last = max(last, time)
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    scalars.append((value.tag, event.step, value.simple_value, time))
                elif kind == "tensor" and len(value.tensor.float_val) == 1:  # as TensorFlow writes a scalar
                    scalars.append((value.tag, event.step, value.tensor.float_val[0], time))
    except (DecodeError, ValueError) as error:
        problems.append(f"{file.name}: damaged after {len(scalars):,} values ({error})")
    return None if begin is None else (begin, last, scalars)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file in the TFRecord format, as far as they are whole.

    The checksum of each length is looked at, which finds out where a file goes wrong; those of the records are not:
    TensorBoard's own reader works them out in Python, and takes fifteen times as long.

    Raises:
        ValueError: at a length that is not what was written.
    """
    position = 0
    while position + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, position)
        if masked_crc32c(content[position : position + 8]) != checksum:
            raise ValueError("a record's length does not match its checksum")
        begin = position + _HEADER.size
        position = begin + length + _CHECKSUM_BYTES
        if position > len(content):
            return
        yield content[begin : begin + length]
