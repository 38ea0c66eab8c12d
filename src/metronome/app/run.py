"""One run, one folder; one process in it at a time."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from metronome.app.checkpoints import newest_whole, read_checkpoint
from metronome.app.folders import (
    CONFIG_FILE,
    RESULT_FILE,
    checkpoints,
    newest_run,
    overrides_of,
    resumes,
    run_of,
    status,
    what_it_is,
)
from metronome.units import InputError

LOCK_FILE = ".lock"
_ABOUT = ("experiment", "overrides", "in_sweep")


@dataclass(frozen=True)
class Run:
    """A run's folder, and the configuration that it stands for, resolved to plain containers.

    `goes_on` says whether the folder held this run already, `before` how it had ended then (None: it was cut off), and
    `checkpoint` is the file to start from, if any.
    """

    folder: Path
    experiment: str
    overrides: list[str]
    in_sweep: bool
    config: dict[str, Any]
    goes_on: bool = False
    before: str | None = None
    checkpoint: str | None = None
    _lock: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def claim(cls, config: DictConfig) -> "Run":
        """Take the folder that Hydra made for this job, and keep the configuration there as config.yaml.

        Raises:
            InputError: if the folder holds another run, or one that is not to go on, or a process works in it.
        """
        hydra = HydraConfig.get()
        folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        resume = resumes(settings["resume"])
        if settings["resume"] is not None and settings["ckpt_path"] is not None:
            raise InputError(
                f"resume={settings['resume']} finds its checkpoint itself; leave out ckpt_path={settings['ckpt_path']}"
            )
        held = (folder / CONFIG_FILE).is_file()
        goes_on = held and (resume or _lies_in(settings["ckpt_path"], folder))
        if resume and goes_on and overrides_of(folder) != what_it_is(overrides):
            theirs = ", ".join(overrides_of(folder) or [])
            raise InputError(
                f"the folder {_relative(folder)} holds a run of other values ({theirs}); give another one, or "
                "ckpt_path=last to go on from it with these"
            )
        searches = hydra.mode == RunMode.MULTIRUN and not hydra.sweeper._target_.endswith(".BasicSweeper")
        if searches and not any(o.lstrip("+").startswith("test=") for o in overrides):
            settings["test"] = False  # what a search looks at is no test any more
        experiment = hydra.runtime.choices.get("experiment") or "default"
        lock = _lock(folder) if rank_zero_only.rank == 0 else None
        run = cls(
            folder=folder,
            experiment=experiment,
            overrides=overrides,
            in_sweep=hydra.mode == RunMode.MULTIRUN,
            config=settings,
            goes_on=goes_on,
            before=status(folder) if goes_on else None,
            checkpoint=_start(settings["ckpt_path"], folder, experiment, goes_on),
            _lock=lock,
        )
        if rank_zero_only.rank == 0 and not run.is_done:
            run._write_config()
        return run

    @classmethod
    def load(cls, folder: Path, start: dict[str, Any]) -> "Run":
        """The run that another process has claimed; `start` is that process's."""
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
        about = {name: config.pop(name) for name in _ABOUT}
        return cls(folder=folder, config=config, **about, **start)

    @property
    def start(self) -> dict[str, Any]:
        """How this start of the run came about: plain data, for its other processes."""
        return {"goes_on": self.goes_on, "before": self.before, "checkpoint": self.checkpoint}

    @property
    def is_done(self) -> bool:
        """Whether an earlier start has done all there is to do, or all that is to be tried."""
        resume = self.config["resume"]
        return resume is not None and (
            self.before == "finished" or (self.before == "failed" and self.in_sweep and resume != "retry")
        )

    def _write_config(self) -> None:
        text = yaml.safe_dump({name: getattr(self, name) for name in _ABOUT} | self.config, sort_keys=False)
        if self.goes_on:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)  # it is of an end that was none
        elif (self.folder / CONFIG_FILE).exists():
            raise InputError(
                f"the folder {self.relative_folder} holds a run already; give another one, or go on with it: "
                "resume=auto or ckpt_path=last"
            )
        aside = self.folder / (CONFIG_FILE + ".part")
        aside.write_text(text)
        os.replace(aside, self.folder / CONFIG_FILE)

    def release(self) -> None:
        """Let another process work in the folder."""
        if self._lock is not None:
            self._lock.close()

    @property
    def relative_folder(self) -> str:
        return _relative(self.folder)


def _relative(folder: Path) -> str:
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative


def _start(given: str | None, folder: Path, experiment: str, goes_on: bool) -> str | None:
    """The checkpoint to start from: the one given, or the newest whole one where a run goes on."""
    if given not in (None, "last"):
        read_checkpoint(given)
        return given
    if given is None and not goes_on:
        return None
    source = folder if goes_on and checkpoints(folder) else newest_run(Path("runs") / experiment) if given else folder
    newest = newest_whole(checkpoints(source))
    if newest is None and given:
        raise InputError(f"ckpt_path=last, and no checkpoint in {_relative(source)} is whole")
    return None if newest is None else str(newest)


def _lies_in(checkpoint: str | None, folder: Path) -> bool:
    if checkpoint is None or checkpoint == "last":
        return checkpoint == "last"
    run = run_of(Path(checkpoint))
    return run is not None and run.resolve() == folder.resolve()


def _lock(folder: Path) -> Any:
    """Hold the folder until this process ends, however it ends. Raises InputError if another one does."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:  # Windows
        return None
    file = open(folder / LOCK_FILE, "w")  # noqa: SIM115
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"another process works in the folder {_relative(folder)}; wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return file
