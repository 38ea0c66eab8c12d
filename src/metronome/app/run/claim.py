"""One run, one folder; one process in it at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from metronome.app.run.checkpoints import check_goes_on, check_whole, newest_whole, read_checkpoint
from metronome.runs.deciding import deciding
from metronome.runs.folders import (
    CONFIG_FILE,
    RESULT_FILE,
    checkpoints,
    hold,
    is_run,
    newest_run,
    overrides_of,
    relative,
    resumes,
    run_of,
    status,
    typed,
    what_it_is,
)
from metronome.training.checkpoints.files import written_aside
from metronome.units import InputError

_ABOUT = ("experiment", "overrides", "in_sweep")


@dataclass(frozen=True)
class Run:
    """A run's folder, and the configuration that it stands for, resolved to plain containers.

    `goes_on` says whether the folder held this run already, `before` how it had ended then (None: it was cut off), and
    `checkpoint` is the file to start from, if any. `is_done`: an earlier start has done all there is to do, or all that
    is to be tried.
    """

    folder: Path
    experiment: str
    overrides: list[str]
    in_sweep: bool
    config: dict[str, Any]
    goes_on: bool = False
    before: str | None = None
    checkpoint: str | None = None
    is_done: bool = False
    _lock: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def claim(cls, config: DictConfig) -> "Run":
        """Take the folder that Hydra made for this job, and keep the configuration there as config.yaml.

        Raises:
            InputError: if the folder holds another run, or one that is not to go on, or a process works in it.
        """
        hydra = HydraConfig.get()
        folder, overrides = Path(hydra.runtime.output_dir), typed(hydra.overrides.task)
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        resume, checkpoint = resumes(settings["resume"]), settings["ckpt_path"]
        if checkpoint is not None:
            checkpoint = str(checkpoint)  # 5 is a name too
        if settings["resume"] is not None and checkpoint is not None:
            raise InputError(
                f"resume={settings['resume']} finds its checkpoint itself; leave out ckpt_path={checkpoint}"
            )
        # A search may come upon the same values again: the same job, which is not to be done twice.
        resume = (resume or in_search()) and checkpoint is None
        held = is_run(folder)
        goes_on = held and (resume or _lies_in(checkpoint, folder))
        if resume and goes_on and overrides_of(folder) != what_it_is(overrides):
            theirs = ", ".join(overrides_of(folder) or [])
            raise InputError(
                f"the folder {relative(folder)} holds a run of other values ({theirs}); give another one, or "
                "ckpt_path=last to go on from it with these"
            )
        if in_search() and not any(o.lstrip("+").startswith("test=") for o in overrides):
            settings["test"] = False  # what a search looks at is no test any more
        experiment = hydra.runtime.choices.get("experiment") or "default"
        lock = hold(folder) if rank_zero_only.rank == 0 else None
        before = status(folder) if goes_on else None
        given_up = before == "failed" and in_sweep() and settings["resume"] != "retry"
        is_done = resume and (before == "finished" or given_up)
        if is_done and before == "finished":
            _check_unchanged(folder, settings)
        run = cls(
            folder=folder,
            experiment=experiment,
            overrides=overrides,
            in_sweep=in_sweep(),
            config=settings,
            goes_on=goes_on,
            before=before,
            checkpoint=None if is_done else _start(checkpoint, folder, experiment, goes_on),
            is_done=is_done,
            _lock=lock,
        )
        if rank_zero_only.rank == 0 and not goes_on:
            run.begin()
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

    def begin(self) -> None:
        """Keep the configuration in the folder. Where a run goes on, that is when all of it has been made: until then
        the folder holds what it held.

        Raises:
            InputError: if it holds something else.
        """
        text = yaml.safe_dump({name: getattr(self, name) for name in _ABOUT} | self.config, sort_keys=False)
        if self.goes_on:
            (self.folder / RESULT_FILE).unlink(missing_ok=True)  # it is of an end that was none
            names = (CONFIG_FILE, RESULT_FILE, "plan.json", "metrics.csv", "*.ckpt", "checkpoints/**/*.ckpt")
            for half_written in [file for name in names for file in self.folder.glob(f"{name}.part")]:
                half_written.unlink(missing_ok=True)
        elif (self.folder / CONFIG_FILE).exists():
            raise InputError(
                f"the folder {self.relative_folder} holds a run already; give another one, or go on with it: "
                "resume=auto or ckpt_path=last"
            )
        with written_aside(self.folder / CONFIG_FILE) as file:
            file.write(text)

    def release(self) -> None:
        """Let another process work in the folder."""
        if self._lock is not None:
            self._lock.close()

    @property
    def relative_folder(self) -> str:
        return relative(self.folder)


def _check_unchanged(folder: Path, settings: dict[str, Any]) -> None:
    """Raises InputError if a finished run was one of other values: a file of the configuration has changed since."""
    theirs, ours = deciding(yaml.safe_load((folder / CONFIG_FILE).read_text())), deciding(settings)
    for name in [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]:
        raise InputError(
            f"{relative(folder)} is finished, with {name}={theirs.get(name)}, which is {ours.get(name)} now; begin "
            "anew with resume=null, or put it back"
        )


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def in_search() -> bool:
    """Whether this is a job of a sweep that chooses the values itself."""
    return in_sweep() and not HydraConfig.get().sweeper._target_.endswith((".BasicSweeper", ".Sweeper"))


def _start(given: str | None, folder: Path, experiment: str, goes_on: bool) -> str | None:
    """The checkpoint to start from: the one given, or the newest whole one where a run goes on."""
    if given not in (None, "last"):
        check_goes_on(read_checkpoint(given), given)
        check_whole(given)
        return given
    if given is None and not goes_on:
        return None
    source = folder if goes_on and checkpoints(folder) else newest_run(Path("runs") / experiment) if given else folder
    newest = newest_whole(checkpoints(source))
    if newest is None and given:
        raise InputError(f"ckpt_path=last, and no checkpoint in {relative(source)} is whole")
    return None if newest is None else str(newest)


def _lies_in(checkpoint: str | None, folder: Path) -> bool:
    if checkpoint is None or checkpoint == "last":
        return checkpoint == "last"
    run = run_of(Path(checkpoint))
    return run is not None and run.resolve() == folder.resolve()
