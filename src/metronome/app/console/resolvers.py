"""What the configuration works out: names of folders, what a sweep is, trials left. Imports nothing heavy."""

import hashlib
import json
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metronome.app.config.asked import asked_sweep
from metronome.app.sweeps.search import trials_done, trials_left

MAX_NAME = 120  # file systems allow 255 bytes; TensorBoard shows names of this length whole


def run_name() -> str:
    """`<date>_<time>_<short id>`; where another program starts the processes of a run, a name that they all find."""
    if os.environ.get("SLURM_STEP_ID") and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ['SLURM_STEP_ID']}"
    if (elastic := os.environ.get("TORCHELASTIC_RUN_ID")) is not None:
        # torchrun calls a run "none" unless told otherwise; its processes have a parent in common.
        name = f"{os.environ.get('MASTER_PORT', '')}_{os.getppid()}" if elastic == "none" else elastic
        return f"torchrun_{name}_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return f"{datetime.now():%Y-%m-%d_%H%M%S}_{secrets.token_hex(3)}"


def job_name(overrides: str, number: int | str, sweep: str = "") -> str:
    """A sweep's job by its overrides, as one folder name: `data.batch_size=16,seed=0`. The experiment is left out
    where the folder of the sweep lies in one of its name."""
    said = f"+experiment={Path(sweep).parent.name}"
    overrides = ",".join(word for word in overrides.split(",") if word != said)
    name = re.sub(r"[^\w.,=+@%\-\[\]]+", "_", overrides).strip("_") or f"job_{number}"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}_{digest}"
    return name


def register_resolvers() -> None:
    """Make `${run_name:}` and the others known to the configuration."""
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("this_sweep", _this_sweep, replace=True)
    OmegaConf.register_new_resolver("trials_left", trials_left, replace=True)
    OmegaConf.register_new_resolver("trials_done", trials_done, replace=True)


def _this_sweep(*, _root_: Any) -> str:
    """As JSON, without the dollars that OmegaConf would put values in for."""
    return json.dumps(asked_sweep(_root_)).replace("$", "\\u0024")
