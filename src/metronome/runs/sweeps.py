"""The folder of a sweep: what its jobs are."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from metronome.runs.names import SWEEP_FILE
from metronome.runs.overrides import in_a_sweep, what_it_is


def sweep_record(sweeper: Any, overrides: Iterable[str]) -> dict[str, Any]:
    """What a sweep is: its overrides, who goes through them, and those that its configuration adds."""
    params = {str(key): str(value) for key, value in (sweeper.get("params") or {}).items()}
    jobs = [list(map(str, job)) for job in sweeper.get("jobs") or []]
    return {"overrides": what_it_is(overrides), "sweeper": sweeper["_target_"], "params": params, "jobs": jobs}


def sweep_of(folder: Path) -> dict[str, Any] | None:
    """What the sweep in a folder is; None for a folder that cannot be read."""
    try:
        hydra = yaml.safe_load((folder / SWEEP_FILE).read_text())["hydra"]
        return sweep_record(hydra["sweeper"], hydra["overrides"]["task"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def write_sweep(folder: Path, sweep: dict[str, Any]) -> None:
    """Leave for `sweep_of` what Hydra's own sweeper does."""
    sweeper = {"_target_": sweep["sweeper"], "params": sweep["params"], "jobs": sweep["jobs"]}
    record = {"hydra": {"overrides": {"task": sweep["overrides"]}, "sweeper": sweeper}}
    (folder / SWEEP_FILE).write_text(yaml.safe_dump(record))


def newest_sweep(base: Path, sweep: dict[str, Any]) -> Path | None:
    """The folder in `base` that holds this very sweep; of several the one whose was started last."""
    same = [file.parent for file in base.glob(f"sweep_*/{SWEEP_FILE}") if sweep_of(file.parent) == sweep]
    return max(same, key=lambda folder: (folder / SWEEP_FILE).stat().st_mtime_ns, default=None)


def of_all_jobs(sweep: Path) -> list[str]:
    """The overrides of all jobs of a sweep, as they were typed and as its jobs have them."""
    typed = (sweep_of(sweep) or {"overrides": []})["overrides"]
    return list(dict.fromkeys([*typed, *map(in_a_sweep, typed)]))


def own_overrides(job: Iterable[str], sweep: Path) -> list[str]:
    """The overrides of a sweep's job that are not those of all its jobs."""
    of_all = of_all_jobs(sweep)
    own = (o.replace("\\", "") for o in what_it_is(job))  # Hydra puts some in
    return [o for o in own if o not in of_all and not o.startswith("+study=")]
