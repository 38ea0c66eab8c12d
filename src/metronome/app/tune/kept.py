"""What was found, on the disk: runs/<experiment>/tune_<...>/tune.json."""

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from metronome.app.tune.search import Tuner

if TYPE_CHECKING:
    from metronome.app.tune.text import Tuned


def write(found: "Tuned") -> Path:
    """Returns the file, which lies in a new folder."""
    experiment = HydraConfig.get().runtime.choices.get("experiment") or "default"
    folder = Path("runs") / experiment / f"tune_{datetime.now():%Y-%m-%d_%H%M%S}_{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    (folder / "tune.json").write_text(json.dumps(as_dict(found), indent=2))
    return folder / "tune.json"


def as_dict(found: "Tuned") -> dict[str, Any]:
    """As plain numbers and lists."""
    tuner, scaling = found.tuner, found.tuner.scaling
    law = None if scaling is None else {name: getattr(scaling, name) for name in ("s_min", "b_crit", "misfit")}
    return {
        "overrides": found.overrides,
        "monitor": found.trials.monitor,
        "target": found.target,
        "noise_scale": found.noise_scale,
        "scaling": law,
        "seconds_a_step": found.step_seconds,
        "best_rates": tuner.best,
        "trials": [
            {"batch_size": size, "rate": rate, "steps_by_seed": steps} for (size, rate), steps in tuner.steps.items()
        ],
        "fastest": _choice(tuner, tuner.fastest),
        "cheapest": _choice(tuner, tuner.cheapest),
    }


def _choice(tuner: Tuner, size: int) -> dict[str, Any]:
    steps = tuner.steps_of(size)
    return {
        "batch_size": size, "rate": tuner.best[size], "steps": steps, "samples": steps * size,
        "seconds": steps * tuner.seconds(size),
    }  # fmt: skip
