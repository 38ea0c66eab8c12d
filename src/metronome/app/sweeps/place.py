"""Which job of a sweep this process makes: number 3 of 12, and how long those before it took. Imports nothing heavy.

It stands in the environment, where the processes of a job find it too, and jobs that a launcher starts elsewhere.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metronome.app.config.asked import in_search
from metronome.app.sweeps.search import FILE as SEARCH_FILE
from metronome.app.sweeps.search import trials_done
from metronome.runs.sweeps import own_overrides

_NAME = "METRONOME_SWEEP"
_LONG = 32  # letters of a job's values, from which on their keys are shortened


@dataclass
class Place:
    """A job of a sweep, and how its line is written.

    Attributes:
        number, jobs: which, from 1 on, of how many; None where nobody knows.
        names: what to write for a key.
        width: letters of the longest values of a job.
        is_beside_others: whether jobs run at the same time, on one terminal or on none.
        seconds, ended: how long the jobs took that this process has made, and how many they were.
    """

    number: int = 1
    jobs: int | None = None
    names: dict[str, str] = field(default_factory=dict)
    width: int = 0
    is_beside_others: bool = False
    seconds: float = 0.0
    ended: int = 0

    @classmethod
    def of_jobs(cls, sweep: Path, jobs: Sequence[Sequence[str]]) -> "Place":
        """Before the first of these jobs, each a list of overrides."""
        own = [own_overrides(job, sweep) for job in jobs]
        names = short_names(own)
        return cls(jobs=len(jobs), names=names, width=max((len(label(words, names)) for words in own), default=0))

    @property
    def text(self) -> str:
        return f"{self.number}" if self.jobs is None else f"{self.number:{len(str(self.jobs))}}/{self.jobs}"

    @property
    def seconds_each(self) -> float | None:
        return self.seconds / self.ended if self.ended else None

    def put(self) -> None:
        os.environ[_NAME] = json.dumps(asdict(self))


def here() -> Place:
    try:
        return Place(**json.loads(os.environ[_NAME]))
    except (KeyError, ValueError, TypeError):
        return Place()


def forget() -> None:
    os.environ.pop(_NAME, None)


def begin_job(config: DictConfig) -> None:
    """Say which job the one is that begins here."""
    hydra, place = HydraConfig.get(), here()
    place.number, place.is_beside_others = hydra.job.num + 1, not hydra.launcher._target_.endswith(".BasicLauncher")
    if in_search():
        place.jobs, place.width = config.get("trials"), 0
        if (Path(hydra.sweep.dir) / SEARCH_FILE).is_file():
            place.number = trials_done(hydra.sweep.dir) + hydra.job.num % hydra.sweeper.n_jobs + 1  # over every start
        place.names = short_names([own_overrides(hydra.overrides.task, Path(hydra.sweep.dir))])
        if place.jobs is not None and place.number > place.jobs:
            place.jobs = None
    place.put()


def end_job(seconds: float) -> None:
    place = here()
    place.seconds, place.ended = place.seconds + seconds, place.ended + 1
    place.put()


def short_names(jobs: Sequence[Sequence[str]]) -> dict[str, str]:
    """The last words of the keys of some jobs, where no two keys have the same one and what is written would be long.

    >>> short_names([["model.network.width=16", "optimizer.weight_decay=0.01"]])
    {'model.network.width': 'width', 'optimizer.weight_decay': 'weight_decay'}
    >>> short_names([["data.batch_size=16"]])
    {}
    """
    if max((len(label(words, {})) for words in jobs), default=0) <= _LONG:
        return {}
    keys = sorted({word.partition("=")[0] for words in jobs for word in words})
    last = [key.rpartition(".")[2].lstrip("+") for key in keys]
    return {key: word for key, word in zip(keys, last, strict=True) if last.count(word) == 1 and word != key}


def label(own: Sequence[str], names: dict[str, str]) -> str:
    """A job's own overrides, numbers to four digits.

    >>> label(["optimizer.lr=0.012345678", "seed=100000"], {"optimizer.lr": "lr"})
    'lr=0.01235 seed=100000'
    """
    words = [override.partition("=") for override in own]
    return " ".join(f"{names.get(key, key)}{equals}{_four_digits(value)}" for key, equals, value in words)


def _four_digits(value: str) -> str:
    try:
        return value if value.lstrip("-").isdecimal() else min(value, f"{float(value):.4g}", key=len)
    except ValueError:
        return value
