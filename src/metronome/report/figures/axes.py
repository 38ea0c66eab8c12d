"""What a curve can be drawn against, and where its points lie there."""

import numpy as np

from metronome.report.events import Curve
from metronome.report.records import RunRecord

AXES = {"steps": "steps (parameter updates)", "epochs": "epochs", "samples": "samples", "seconds": "seconds"}


def positions(run: RunRecord, curve: Curve) -> dict[str, np.ndarray]:
    """Where the points of a curve lie on each axis; without a plan there are but steps and seconds."""
    found = {"steps": curve.steps.astype(float), "seconds": curve.seconds}
    if run.step_table is not None:
        found |= {
            "epochs": run.step_table.epochs_at(curve.steps),
            "samples": run.step_table.samples_at(curve.steps).astype(float),
        }
    return found
