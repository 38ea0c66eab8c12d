"""What a line of the progress says in so many columns: which words are left out where they do not all fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

PLAIN_COLUMNS = 80  # of lines that no terminal shows
_LEAST_BAR, _MOST_BAR = 6, 24  # columns
_GAP = "  "


@dataclass
class Parts:
    """What there is to say; empty, or None, is what is not known.

    Attributes:
        job: which of a sweep: `job 3/12`.
        epoch, step: `epoch 2/15`, `step 31/300`.
        state: what goes on in place of steps: `validating 40%`.
        samples: `1,984 samples`.
        metrics: by name, the most important first.
        speed: `4,360 samples/s`.
        left: `0:12 left`.
        done: the part of the whole that is done, from 0 to 1.
    """

    job: str = ""
    epoch: str = ""
    step: str = ""
    state: str = ""
    samples: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    speed: str = ""
    left: str = ""
    done: float | None = None


def live_line(parts: Parts, columns: int, ends: str = "█░") -> str:
    """The line that is drawn again and again. What does not fit is left out in this order: the count of samples, all
    metrics but the first, the bar, samples/s, the epoch, the first metric, the step. The time left stays, and of a
    sweep its job.

    `ends`: what the bar is made of: of what is done, and of what is not.
    """
    line = ""
    for words, has_bar in _live(parts):
        shown = [word for word in words if word]
        line = _GAP.join(shown)
        if not has_bar and len(line) <= columns:
            break
        if has_bar and (room := columns - len(line) - len(_GAP)) >= _LEAST_BAR:
            place = sum(bool(word) for word in words[:3])  # behind the step
            drawn = bar(parts.done or 0.0, min(room, _MOST_BAR), ends)
            return _GAP.join([*shown[:place], drawn, *shown[place:]])
    return line[:columns]


def _live(parts: Parts) -> Iterator[tuple[list[str], bool]]:
    """Words, and whether there is to be a bar beside them, from the most that can be said to the least."""
    names = shortest(parts.metrics)
    metrics = [f"{names[name]} {value:<6.4g}" for name, value in parts.metrics.items()]
    where = [parts.job, parts.epoch, parts.step]
    has_bar = parts.done is not None
    if parts.state:
        for kept in (where, [parts.job, "", parts.step], [parts.job, "", ""]):
            yield from (([*kept, parts.state, parts.left], bar) for bar in ([True, False] if has_bar else [False]))
        yield [parts.state], False
        return
    full = [*where, parts.samples, *metrics, parts.speed, parts.left]
    yield full, has_bar
    for count in range(len(metrics), 0, -1):
        yield [*where, *metrics[:count], parts.speed, parts.left], has_bar
    first = metrics[:1]
    yield [*where, *first, parts.speed, parts.left], False
    yield [*where, *first, parts.left], False
    yield [parts.job, parts.step, *first, parts.left], False
    yield [parts.job, parts.step, parts.left], False
    yield [parts.job, parts.left] if parts.left else [parts.job, parts.step], False
    yield [parts.left or parts.step], False


def epoch_line(parts: Parts, columns: int = PLAIN_COLUMNS) -> str:
    """The line that an epoch leaves. What does not fit is left out in this order: the count of samples, samples/s, the
    steps, metrics from the last on."""
    metrics = [f"{name} {value:<6.4g}" for name, value in parts.metrics.items()]
    ways = [
        [parts.epoch, parts.step, parts.samples, *metrics, parts.speed],
        [parts.epoch, parts.step, *metrics, parts.speed],
        [parts.epoch, parts.step, *metrics],
        *([parts.epoch, *metrics[:count]] for count in range(len(metrics), 0, -1)),
    ]
    lines = [_GAP.join(word for word in words if word).rstrip() for words in ways]
    return next((line for line in lines if len(line) <= columns), lines[-1][:columns])


def shortest(names: Sequence[str] | Mapping[str, float]) -> dict[str, str]:
    """Each name by its last word, where no other has the same one.

    >>> shortest(["train/loss", "train/acc"]), shortest(["train/loss", "aux/loss"])
    ({'train/loss': 'loss', 'train/acc': 'acc'}, {'train/loss': 'train/loss', 'aux/loss': 'aux/loss'})
    """
    last = [name.rpartition("/")[2] for name in names]
    return {name: word if last.count(word) == 1 else name for name, word in zip(names, last, strict=True)}


def bar(done: float, columns: int, ends: str = "█░") -> str:
    """
    >>> bar(0.5, 8), bar(0.999, 8), bar(1.0, 8)
    ('████░░░░', '███████░', '████████')
    """
    full = int(min(max(done, 0.0), 1.0) * columns)
    return ends[0] * full + ends[1] * (columns - full)


def of(done: int, total: int | None) -> str:
    """
    >>> of(31, 300), of(31, None)
    (' 31/300', '31')
    """
    return f"{done:,}" if total is None else f"{done:{len(f'{total:,}')},}/{total:,}"


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours too.

    >>> clock(2.1), clock(3723)
    ('0:03', '1:02:03')
    """
    minutes, seconds = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
