"""What a curve can be drawn against, and where its points lie there."""

import numpy as np

from metronome.report.events import Curve
from metronome.report.records import RunRecord

AXES = {
    "steps": "steps (parameter updates)",
    "epochs": "epochs",
    "samples": "samples",
    "seconds": "seconds of training",
}


def positions(run: RunRecord, curve: Curve) -> dict[str, np.ndarray]:
    """Where the points of a curve lie on each axis; without a plan there are but steps and seconds.

    Seconds are those of training, without validations: the same for each iteration of a run. A run that has not
    measured them, or not ended, has those of its logs.
    """
    found = {"steps": curve.steps.astype(float), "seconds": curve.seconds}
    if run.step_table is not None:
        if (seconds := run.train_seconds) is not None and run.steps:
            done = run.step_table.iterations_at(run.steps)
            found["seconds"] = seconds * run.step_table.iterations_at(curve.steps) / np.maximum(done, 1)
        found |= {
            "epochs": run.step_table.epochs_at(curve.steps),
            "samples": run.step_table.samples_at(curve.steps).astype(float),
        }
    return found
