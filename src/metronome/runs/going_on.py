"""Which run, and which checkpoint, a command goes on with.

Two decisions, each made once, by a function of what was asked and what is on the disk: the folder, before there is one
(`choose_folder`), and, once no other process can change that folder, what is left to do in it and from where
(`choose_start`). The order of the rules is important: the first that fits decides. Where it is a folder from whose
checkpoints to start, the one with the most steps that is whole is taken, which only reading them tells
(`app/run/checkpoints.py`).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from metronome.units import InputError


def resumes(resume: object) -> bool:
    """Whether a command is to pick up what an earlier start of it has left: asked to, or started again by a cluster.

    Raises:
        InputError: for an unknown word.
    """
    if resume not in (None, "auto", "retry"):
        raise InputError(
            f"resume={resume} is not known; use resume=auto (or retry: failed jobs of a sweep too), or null"
        )
    return resume is not None or is_started_again()


def is_started_again() -> bool:
    """Whether SLURM has requeued the job of this process, which it starts with the same command, or submitit one that
    it makes on this machine, which does not say so."""
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        return True
    return (word := _word_of_start()) is not None and word.exists()


def leave_word_of_start() -> None:
    """For `is_started_again` at the next start of this job, where nobody else does. Once a folder is this start's."""
    if (word := _word_of_start()) is not None:
        word.touch()


def _word_of_start() -> Path | None:
    folder, job = os.environ.get("SUBMITIT_FOLDER"), os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    if folder is None or job is None:
        return None
    path = Path(folder.replace("%j", job))
    return path / f"{job}_started" if path.is_dir() else None


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
        overrides: what the run is (see `overrides.what_it_is`).
        checkpoint: `ckpt_path`: None, `last`, or a path.
        resume: whether to pick up what an earlier start of the same command has left.
        retry: whether a job that failed is tried again.
    """

    overrides: list[str]
    checkpoint: str | None = None
    resume: bool = False
    retry: bool = False


class RunFound(Protocol):
    """What a folder shows of the run in it; `folders.RunFolder` reads it from the disk, each when it is asked for."""

    @property
    def folder(self) -> Path: ...

    @property
    def overrides(self) -> list[str] | None:
        """What the run is; None where the folder holds no run."""

    @property
    def status(self) -> str | None:
        """How it ended; None if it has not: it runs, or was cut off."""

    @property
    def started(self) -> int:
        """When it was started last, in nanoseconds."""
        ...

    @property
    def checkpoints(self) -> Mapping[Path, int]:
        """Its files, and when each was written, in nanoseconds."""
        ...


def choose_folder(asked: Asked, new: Path, there: Sequence[RunFound], around: RunFound | None = None) -> Path:
    """The folder of a run: `new`, or that of an earlier one that goes on.

    1. `ckpt_path=last`: of the runs that have a checkpoint, the one whose was written last; a new one if that is
       finished, which stays as it is.
    2. The path of a checkpoint: the run that it lies in, if that was cut off there: it is not finished, and has nothing
       newer. Else a new one.
    3. `resume`: `new`, if it holds a run of the same overrides (SLURM's number of the job is its name); else of the
       runs of the same overrides the one started last, those not finished first; a finished one too, so that there is
       nothing left to do.
    4. Else a new one.

    Args:
        asked: by the command.
        new: a folder that is not there yet.
        there: the experiment's runs.
        around: the run that the given checkpoint lies in, if it does.

    Raises:
        InputError: for `ckpt_path=last` where no run has a checkpoint.
    """
    if asked.checkpoint == "last":
        newest = newest_of(there, new.parent)
        return new if newest.status == "finished" else newest.folder
    if asked.checkpoint is not None:
        if around is None or around.status == "finished":
            return new
        newest = max(around.checkpoints, key=lambda file: around.checkpoints[file], default=None)
        return around.folder if newest == Path(asked.checkpoint).absolute() else new
    if asked.resume:
        same = [run for run in there if run.overrides == asked.overrides]
        if new.absolute() in [run.folder.absolute() for run in same]:
            return new
        if same:
            return max(same, key=lambda run: (run.status != "finished", run.started)).folder
    return new


def newest_of(runs: Sequence[RunFound], base: Path) -> RunFound:
    """The run whose checkpoint was written last. Raises InputError if none has one."""
    found = [run for run in runs if run.checkpoints]
    if not found:
        raise InputError(f"ckpt_path=last, and no run in {base} has a checkpoint; leave it out to start a new one")
    return max(found, key=lambda run: max(run.checkpoints.values()))


@dataclass(frozen=True)
class Start:
    """How a start of a run comes about: plain data, for the run's other processes too.

    Attributes:
        goes_on: whether the folder holds this run already.
        before: how it had ended then; None if it was cut off.
        is_done: whether an earlier start has done all there is to do, or all that is to be tried.
        checkpoint: a file to start from.
        newest_in: a folder from whose checkpoints to start: the one with the most steps that is whole.
        must_have: whether one of them must be.
    """

    goes_on: bool = False
    before: str | None = None
    is_done: bool = False
    checkpoint: str | None = None
    newest_in: str | None = None
    must_have: bool = False

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def choose_start(asked: Asked, here: RunFound, is_job: bool, elsewhere: Sequence[RunFound], base: Path) -> Start:
    """What a start has to do in its folder, which no other process works in now.

    1. The run goes on if the folder holds one, and: `resume` is asked for, or `ckpt_path=last`, or the given checkpoint
       lies in the folder. With `resume` it must be the same run.
    2. With `resume` it is done if it is finished; a job of a sweep if it failed too, unless it is to be tried again.
    3. It starts from the given checkpoint;
    4. with `ckpt_path=last` from one of its own, or else from one of the run of the experiment that wrote one last;
    5. where it goes on, from one of its own, if there is one;
    6. else from nothing.

    Args:
        asked: by the command.
        here: what is in the folder.
        is_job: whether it is a job of a sweep.
        elsewhere: the experiment's runs.
        base: where these are, for words.

    Raises:
        InputError: if the folder holds a run of other values, or no run has a checkpoint to start from.
    """
    given = asked.checkpoint
    held = here.overrides
    lies_here = given is not None and given != "last" and here.folder.resolve() in Path(given).resolve().parents
    goes_on = held is not None and (asked.resume or given == "last" or lies_here)
    if goes_on and asked.resume and held != asked.overrides:
        raise InputError(
            f"the folder {here.folder} holds a run of other values ({', '.join(held or [])}); give another "
            "one, or ckpt_path=last to go on from it with these"
        )
    before = here.status if goes_on else None
    given_up = before == "failed" and is_job and not asked.retry
    if goes_on and asked.resume and (before == "finished" or given_up):
        return Start(goes_on, before, is_done=True)
    if given not in (None, "last"):
        return Start(goes_on, before, checkpoint=given)
    if given == "last":
        source = here if goes_on and here.checkpoints else newest_of(elsewhere, base)
        return Start(goes_on, before, newest_in=str(source.folder), must_have=True)
    if goes_on:
        return Start(goes_on, before, newest_in=str(here.folder))
    return Start()
