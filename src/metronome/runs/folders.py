"""Which folder a run or a sweep goes to: a new one, or that of one that goes on. Imports nothing heavy."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from metronome.runs.names import CONFIG_FILE, LOCK_FILE, RESULT_FILE, SWEEP_FILE
from metronome.runs.overrides import what_it_is
from metronome.units import InputError


def resumes(resume: object) -> bool:
    """Whether a run is to pick up what an earlier start of it has left. Raises InputError for an unknown word."""
    if resume not in (None, "auto", "retry"):
        raise InputError(
            f"resume={resume} is not known; use resume=auto (or retry: failed jobs of a sweep too), or null"
        )
    # SLURM starts a requeued job with the same command.
    return resume is not None or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def run_folder(base: str, new: str, root: Any) -> str:
    """The folder of a run: `base/new`, or that of an earlier one that goes on.

    With `ckpt_path=last` it is the newest run in `base` that has a checkpoint; with the path of a checkpoint its run,
    if that was cut off and has nothing newer; with `resume=auto` the newest run of the same overrides, first of
    those that are not finished.

    Args:
        base: where the experiment's runs are.
        new: a name for a new one.
        root: the whole configuration.

    Raises:
        InputError: if there is none to go on from.
    """
    checkpoint, resume = root.get("ckpt_path"), resumes(root.get("resume"))
    if checkpoint == "last":
        return str(newest_run(Path(base)))
    if checkpoint is not None:
        path = Path(str(checkpoint))
        run = run_of(path)
        if run is not None and status(run) != "finished" and _newest(checkpoints(run)) == path.absolute():
            return os.path.relpath(run)
        return f"{base}/{new}"
    if resume:
        mine = what_it_is(typed(root.hydra.overrides.task))
        same = [run for run in _runs(Path(base)) if overrides_of(run) == mine]
        # One that is finished too, so that there is nothing left to do.
        newest = max(same, key=lambda run: (status(run) != "finished", _began(run)), default=None)
        if newest is not None:
            return str(newest)
    return f"{base}/{new}"


def sweep_folder(base: str, new: str, root: Any) -> str:
    """The folder of a sweep: `base/new`, or with `resume=auto` the newest one of the same jobs, or the same search."""
    if resumes(root.get("resume")):
        mine = this_sweep(root)
        same = [file.parent for file in Path(base).glob(f"sweep_*/{SWEEP_FILE}") if sweep_of(file.parent) == mine]
        if (newest := max(same, key=_began, default=None)) is not None:
            return str(newest)
    return f"{base}/{new}"


def chosen_once(choose: Callable[[str, str, Any], str]) -> Callable[[str, str, Any], str]:
    """The same function, asked once for each new name: later on there are more folders, and the jobs of a sweep, which
    may run in other processes, have overrides of their own."""

    def once(base: str, new: str, root: Any) -> str:
        key = f"METRONOME_FOLDER_{new}"
        if key not in os.environ:
            os.environ[key] = choose(base, new, root)
        return os.environ[key]

    return once


def newest_run(base: Path) -> Path:
    """The run in `base` whose checkpoint was written last. Raises InputError if there is none."""
    found = {run: newest for run in _runs(base) if (newest := _newest(checkpoints(run))) is not None}
    if not found:
        raise InputError(f"ckpt_path=last, and no run in {base} has a checkpoint; leave it out to start a new one")
    return max(found, key=lambda run: found[run].stat().st_mtime_ns)


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint; None if it does not lie in one."""
    return next((folder for folder in checkpoint.absolute().parents[:3] if is_run(folder)), None)


def is_run(folder: Path) -> bool:
    """Whether a run has been in a folder: others have a config.yaml too."""
    return overrides_of(folder) is not None


def checkpoints(run: Path) -> list[Path]:
    return [*run.glob("*.ckpt"), *run.glob("checkpoints/**/*.ckpt")]


def status(run: Path) -> str | None:
    """How a run ended; None if it has not: it runs, or was cut off."""
    try:
        return json.loads((run / RESULT_FILE).read_text()).get("status")
    except (OSError, ValueError, AttributeError):
        return None


def overrides_of(run: Path) -> list[str] | None:
    """What was asked of a run, in the order of the words; None for a folder that cannot be read."""
    try:
        config = yaml.safe_load((run / CONFIG_FILE).read_text())
        return what_it_is(config["overrides"]) if "experiment" in config else None
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None


def typed(overrides: Any) -> list[str]:
    """Hydra's list of overrides as they were typed: to look at one would put values in for its `${...}`."""
    return OmegaConf.to_container(overrides)  # pyright: ignore


def this_sweep(root: Any) -> dict[str, Any]:
    """What a sweep is: its overrides, who goes through them, and those that its configuration adds."""
    return _sweep(OmegaConf.to_container(root.hydra.sweeper), typed(root.hydra.overrides.task))


def sweep_of(folder: Path) -> dict[str, Any] | None:
    """What the sweep in a folder is; None for a folder that cannot be read."""
    try:
        hydra = yaml.safe_load((folder / SWEEP_FILE).read_text())["hydra"]
        return _sweep(hydra["sweeper"], hydra["overrides"]["task"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def write_sweep(folder: Path, sweep: dict[str, Any]) -> None:
    """Leave for `sweep_of` what Hydra's own sweeper does."""
    sweeper = {"_target_": sweep["sweeper"], "params": sweep["params"], "jobs": sweep["jobs"]}
    record = {"hydra": {"overrides": {"task": sweep["overrides"]}, "sweeper": sweeper}}
    (folder / SWEEP_FILE).write_text(yaml.safe_dump(record))


def _sweep(sweeper: Any, overrides: Iterable[str]) -> dict[str, Any]:
    params = {str(key): str(value) for key, value in (sweeper.get("params") or {}).items()}
    jobs = [list(map(str, job)) for job in sweeper.get("jobs") or []]
    return {"overrides": what_it_is(overrides), "sweeper": sweeper["_target_"], "params": params, "jobs": jobs}


def own_overrides(job: Iterable[str], sweep: Path) -> list[str]:
    """The overrides of a sweep's job that are not those of all its jobs."""
    of_all = (sweep_of(sweep) or {"overrides": []})["overrides"]
    given = typed(job) if OmegaConf.is_config(job) else job
    own = (o.replace("\\", "") for o in what_it_is(given))  # Hydra puts some in
    return [o for o in own if o not in of_all and not o.startswith("+study=")]


def relative(folder: Path) -> str:
    """A folder's name from here, if it lies below."""
    name = os.path.relpath(folder)
    return str(folder) if name.startswith("..") else name


def hold(folder: Path) -> Any:
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
        raise InputError(f"another process works in the folder {relative(folder)}; wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return file


def _runs(base: Path) -> list[Path]:
    return [file.parent for file in base.glob(f"*/{CONFIG_FILE}")]


def _newest(files: list[Path]) -> Path | None:
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)


def _began(folder: Path) -> int:
    return folder.stat().st_mtime_ns
