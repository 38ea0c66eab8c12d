"""One run, one folder; one process in it at a time."""

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.asked import asked, in_search, in_sweep, typed
from metronome.app.config.build import Job, build_job
from metronome.app.config.foreign import give_groups
from metronome.app.config.types import check_types
from metronome.app.hosts.beginning import START_FROM, agreed_beginning
from metronome.app.hosts.company import company
from metronome.app.hosts.copies import OnEachHost, check_copies
from metronome.app.run.checkpoints import (
    KeepConfig,
    NothingLeft,
    check_end,
    check_fits,
    check_goes_on,
    check_left,
    check_same,
    check_whole,
    newest_whole,
    read_checkpoint,
)
from metronome.app.run.clock import Clock
from metronome.app.storage.bringing import bring_back, runs_known
from metronome.runs.deciding import deciding, values_in_words
from metronome.runs.folders import RunFolder, hold, relative
from metronome.runs.going_on import Asked, RunFound, Start, choose_start, leave_word_of_start
from metronome.runs.names import CONFIG_FILE, LOCK_FILE, PLAN_FILE, RESULT_FILE
from metronome.runs.overrides import GOING_ON
from metronome.runs.storage.address import is_address
from metronome.runs.storage.cache import at_hand
from metronome.training.checkpoints.files import written_aside
from metronome.training.checkpoints.places import PART, discard, put_back
from metronome.units import InputError

_SECONDS_TO_LET_GO = 30
_ABOUT = ("experiment", "overrides", "in_sweep")
# What an earlier start may have left half written.
_FILES = (CONFIG_FILE, RESULT_FILE, PLAN_FILE, "metrics.csv", "*.ckpt", "checkpoints/**/*.ckpt")


@dataclass(frozen=True)
class Run:
    """A run's folder, the configuration that it stands for, resolved to plain containers, and how it starts.

    In a `with` block the folder is this process's, until the end of it.
    """

    folder: Path
    experiment: str
    overrides: list[str]
    in_sweep: bool
    config: dict[str, Any]
    start: Start = field(default_factory=Start)
    _lock: Any = field(default=None, repr=False, compare=False)
    is_keeper: bool = field(default_factory=lambda: rank_zero_only.rank == 0)  # whether this process writes its files
    first_folder: Path | None = None  # on the first host, where others keep the run on disks of their own, too

    @classmethod
    def claim(cls, config: DictConfig) -> "Run":
        """Take the folder that Hydra made for this job, and keep the configuration there as config.yaml.

        Raises:
            InputError: if the folder holds another run, or one that is not to go on, or a process works in it.
        """
        hydra = HydraConfig.get()
        if in_sweep():
            check_types(config)
        folder, overrides = Path(hydra.runtime.output_dir), typed(hydra.overrides.task)
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        settings.pop("study", None)  # what a sweep asks is no value of its runs; it is kept in the sweep's folder
        give_groups(settings, OmegaConf.to_container(config, resolve=False), overrides)  # pyright: ignore
        ask = asked(settings, overrides)
        if in_search():
            # It may come upon the same values again: the same job, which is not to be done twice.
            ask = replace(ask, resume=ask.checkpoint is None)
            if not any(override.lstrip("+").startswith("test=") for override in overrides):
                settings["test"] = False  # what a search looks at is no test any more
        if is_address(ask.checkpoint):
            ask = replace(ask, checkpoint=str(at_hand(str(ask.checkpoint), with_run=True)))
        experiment = hydra.runtime.choices.get("experiment") or "default"
        is_first = rank_zero_only.rank == 0
        base = Path("runs") / experiment
        lock: Any = None
        here, storage, others = RunFolder(Path(relative(folder))), settings.get("storage"), company()
        if others is not None:
            others.check_alike(values_in_words(settings), "give each the same files of the configuration")

        def take() -> None:
            nonlocal lock
            if is_first:
                lock = _held(folder)
                put_back(folder / "checkpoints")
            if ask.resume or ask.checkpoint == "last":
                bring_back(storage, here.folder, in_sweep())

        # Of several hosts the first brings it, which has the others told and sent what they lack.
        take() if others is None else others.first_says(take)

        def choose(ask: Asked, here: RunFound) -> Start:
            elsewhere = runs_known(storage, base) if ask.checkpoint == "last" else ()
            start = choose_start(ask, here, in_sweep(), elsewhere, base)
            if start.newest_in is not None and not start.goes_on:
                bring_back(storage, Path(start.newest_in), in_sweep())
            if start.is_done and start.before == "finished":
                _check_unchanged(here.folder, settings)
            return start

        run = cls(folder, experiment, overrides, in_sweep(), settings, _lock=lock)
        if others is None:
            run = replace(run, start=_with_file(choose(ask, here)))
        else:
            begin = agreed_beginning(others, ask, folder, choose, _with_file, _read_whole)
            run = replace(run, start=begin.start, first_folder=begin.first_folder, _lock=lock or begin.lock,
                          is_keeper=is_first or begin.is_keeper)  # fmt: skip
        if run.is_keeper and not run.start.goes_on:
            run.write_config()
        leave_word_of_start()
        return run

    @classmethod
    def load(cls, folder: Path, start: dict[str, Any], file: Path) -> "Run":
        """The run that another process has claimed; `start`, and the configuration in the file, are that process's."""
        config = yaml.safe_load(file.read_text())
        about = {name: config.pop(name) for name in _ABOUT}
        return cls(folder=folder, config=config, start=Start(**start), **about)

    @property
    def text(self) -> str:
        """What config.yaml says of this run."""
        return yaml.safe_dump({name: getattr(self, name) for name in _ABOUT} | self.config, sort_keys=False)

    @property
    def replaces(self) -> bool:
        """Whether it goes on in a folder whose run has other values: that stays as it is until this one has saved."""
        if not self.start.goes_on:
            return False
        there = yaml.safe_load((self.folder / CONFIG_FILE).read_text())
        return any(there.get(key) != value for key, value in self.config.items() if key not in GOING_ON)

    def write_config(self) -> None:
        """Keep the configuration in the folder. Where a run goes on, that is when all of it has been made, or where it
        has other values when it has saved: until then the folder holds what it held.

        Raises:
            InputError: if it holds something else.
        """
        if self.start.goes_on:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)  # it is of an end that was none
            for half_written in [file for name in _FILES for file in self.folder.glob(f"{name}{PART}")]:
                discard(half_written)
        elif (self.folder / CONFIG_FILE).exists():
            raise InputError(
                f"the folder {self.relative_folder} holds a run already; give another one, or go on with it: "
                "resume=auto or ckpt_path=last"
            )
        with written_aside(self.folder / CONFIG_FILE) as file:
            file.write(self.text)

    def build(self) -> Job:
        """All that the training needs. Raises InputError if it does not fit the checkpoint that it is to start from."""
        own: list[Callback] = [
            KeepConfig(self.folder, self.experiment, self.config, self.first_folder is not None),
            Clock(),
        ]
        if self.first_folder is not None:
            own.append(OnEachHost(self.first_folder, self.folder, self.is_keeper and rank_zero_only.rank != 0))
        job = build_job(self.config, self.overrides, own)
        if self.first_folder is not None:
            check_copies(job.trainer.strategy)
        if self.checkpoint is not None:
            checkpoint = read_checkpoint(self.checkpoint, parts=())
            check_fits(checkpoint, job.model, self.checkpoint)
            check_same(checkpoint, self.config)
            check_end(checkpoint, job.trainer, job.plan)
            if not self.start.goes_on or self.start.before == "finished":
                check_left(checkpoint, self.checkpoint, job.trainer, job.plan)
        return job

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            if isinstance(error, NothingLeft) and not self.start.goes_on:
                self._leave_nothing()
            self._lock.close()
        if (others := company()) is not None and not self.in_sweep and isinstance(error, SystemExit | None):
            others.part()
        if self.first_folder is not None and self.is_keeper:
            rmtree(self.folder / START_FROM, ignore_errors=True)

    def _leave_nothing(self) -> None:
        """A folder that was made for this start goes, unless there is more in it."""
        logs = [file for file in self.folder.glob("*.log") if not file.stat().st_size]
        for file in (self.folder / CONFIG_FILE, self.folder / LOCK_FILE, *logs):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def checkpoint(self) -> str | None:
        """The file to start from, if any."""
        return self.start.checkpoint

    @property
    def relative_folder(self) -> str:
        return relative(self.folder)


def _with_file(start: Start) -> Start:
    """The same with the checkpoint as a file, read to its last byte. Raises InputError if it is damaged."""
    if start.checkpoint is not None:
        check_goes_on(read_checkpoint(start.checkpoint, parts=()), start.checkpoint)
        check_whole(start.checkpoint)
    if start.newest_in is None:
        return start
    newest = newest_whole(list(RunFolder(Path(start.newest_in)).checkpoints))
    if newest is None and start.must_have:
        raise InputError(f"ckpt_path=last, and no checkpoint in {start.newest_in} is whole")
    return replace(start, checkpoint=None if newest is None else str(newest))


def _read_whole(file: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(file)
    check_goes_on(checkpoint, file)
    check_whole(file)
    return checkpoint


def _held(folder: Path) -> Any:
    """The folder, held. Where torchrun starts a run again, what it has ended may still be about to let it go."""
    end = time.monotonic() + (_SECONDS_TO_LET_GO if company() is not None else 0)
    while True:
        try:
            return hold(folder)
        except InputError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _check_unchanged(folder: Path, settings: dict[str, Any]) -> None:
    """Raises InputError if a finished run was one of other values: a file of the configuration has changed since."""
    if not (folder / CONFIG_FILE).is_file():
        return  # it lies on another host
    theirs, ours = deciding(yaml.safe_load((folder / CONFIG_FILE).read_text())), deciding(settings)
    for name in [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
        raise InputError(
            f"{relative(folder)} is finished, with {name}={theirs.get(name)}, which is {ours.get(name)} now; begin "
            "anew with resume=null, or put it back"
        )
