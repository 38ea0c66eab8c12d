"""Metronome: training on PyTorch Lightning and Hydra, in units that are exact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from metronome.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from lightning import LightningModule

    from metronome.app.predict import Predictions

__all__ = ["__version__", "load", "predict"]


def load(
    path: str | Path, allow: str | Iterable[str] = (), map_location: str | torch.device = "cpu"
) -> LightningModule:
    """The trained module in a checkpoint, ready to use: `metronome.load("runs/.../checkpoints/best.ckpt")`.

    What it is made of is written in the file, and a file may come from anywhere, so nothing in it is run: its module
    is made of classes and functions from `metronome.models` and `metronome.data`, and from the packages that lie beside
    `metronome` in the `src` of your checkout, layers from `torch.nn`, optimizers and schedulers from `torch.optim`,
    metrics from `torchmetrics`, and what is in the packages that you allow.

    Args:
        path: a checkpoint of a run of this project.
        allow: packages of your own, or modules in them, that the file may use too. They get any arguments that the
            file gives, so name only what you would run on them.
        map_location: the device to put the module on.

    Returns:
        The module with its weights, in evaluation mode.

    Raises:
        InputError: for a file that is not such a checkpoint, or that asks for anything else.
    """
    from metronome.app.load import load  # only now, so that the package itself needs neither torch nor lightning

    return load(path, allow, map_location)


def predict(
    path: str | Path,
    changes: Sequence[str] = (),
    allow: str | Iterable[str] = (),
    *,
    split: str | None = None,
    inputs: str | Path | None = None,
    out: str | Path | None = None,
    top: int | None = None,
) -> Predictions:
    """What the model of a checkpoint predicts, a row a sample, as `scripts/predict.py` does:
    `metronome.predict("runs/.../checkpoints/best.ckpt").columns["prediction"]`.

    Args:
        path: a checkpoint of a run of this project; what it may use is as `load` says.
        changes: values of its configuration to change, as `key=value`.
        allow: packages of your own, or modules in them, that the file may use too.
        split: of its run's data: `train`, `val` or `test`; None: `test`.
        inputs: a file to predict in place of these: .csv, .npy, .npz, a picture, or a folder of them.
        out: where to write the table, .csv or .parquet; None: nowhere.
        top: how many classes, the most probable, the table has; None: all of few, 5 of many.

    Returns:
        `columns`, arrays by name; `metrics`, those of a test, where the true values are known.

    Raises:
        InputError: for what cannot be read, written or used.
    """
    from metronome.app.predict import predict

    return predict(path, changes, allow, split=split, inputs=inputs, out=out, top=top)
