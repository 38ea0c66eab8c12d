"""A checkpoint and data or files in, a table of predictions out: a row a sample, in their order."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from metronome.app.console import output
from metronome.app.predicting.files import Samples, read_samples
from metronome.app.predicting.table import Columns, check_table, columns_of, joined, write_table
from metronome.app.reopen import reopen
from metronome.data import DataModule
from metronome.data.rows import as_dataset
from metronome.runs.storage.address import is_address
from metronome.units import InputError, check_number

SPLITS = ("train", "val", "test", "predict")
_HOOKS = {"val": ("val_dataloader", "validate"), "test": ("test_dataloader", "test"),
          "predict": ("predict_dataloader", "predict")}  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """The table, column by column; the metrics of a test over it, where the true values are known; and the file that it
    was written to."""

    columns: Columns
    metrics: dict[str, float]
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.columns["index"])


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
    """Predict with the model of a checkpoint, on one device.

    Args:
        path: a checkpoint of a run of this project.
        changes: values of its configuration to change, as `key=value`.
        allow: packages that the configuration may use beside those of `metronome.load`.
        split: of its run's data: `train`, `val` or `test`, or `predict` for the `predict_dataloader` of a data module
            that has one; None: `predict` where there is one of the user's, else `test`.
        inputs: a file to predict in place of these.
        out: where to write the table, .csv or .parquet; None: nowhere.
        top: how many classes, the most probable, the table has; None: all of few, 5 of many.

    Raises:
        InputError: as `evaluate` does; for files that cannot be read or written, and a module that cannot predict.
    """
    output.quiet()
    if split is not None and inputs is not None:
        raise InputError("--split is of the run's data, and --input in their place; give one of them")
    if top is not None:
        check_number("--top", top, "classes")
    if out is not None:
        check_table(Path(out))
    trainer, model, data = reopen(path, list(changes), allow)
    _check_predicts(model, from_file=inputs is not None)
    samples = None
    if inputs is not None:
        samples = read_samples(Path(inputs), lambda: _an_input(data, trainer))
        batches = _predict_samples(trainer, model, data, samples)
    else:
        split = check_split(data, split)
        batches = predict_split(trainer, model, data, split)
    name = type(model).__name__
    parts = joined(batches, name)
    metrics_of = getattr(model, "metrics_of", None)
    has_true = "label" in parts or "target" in parts
    metrics = metrics_of(parts) if metrics_of is not None and has_true else {}
    columns = columns_of(parts, name, top)
    if samples is not None and samples.names is not None:
        columns = {"index": columns["index"], "file": np.array(samples.names, dtype=object)} | columns
    if out is not None:
        write_table(columns, Path(out))
    stage = f"{split}/" if inputs is None else ""
    named = {f"{stage}{key}": value for key, value in metrics.items()}
    return Predictions(columns, named, None if out is None else Path(out))


def default_table(checkpoint: str | Path, split: str | None, inputs: str | None) -> Path:
    """A file in the folder `predictions` of the run, named by the checkpoint and what is predicted; of a run that is
    stored elsewhere, in the folder that it would have here."""
    folder = Path(checkpoint).resolve().parent
    if is_address(checkpoint):
        folder = Path("runs", *str(checkpoint).split("/")[-4:-1])
    folder = folder.parent if folder.name == "checkpoints" else folder
    what = split or ("test" if inputs is None else Path(inputs).stem)
    return folder / "predictions" / f"{Path(checkpoint).stem}_{what}.csv"


# ---- what is predicted --------------------------------------------------------------------------------


def check_split(data: L.LightningDataModule, split: str | None) -> str:
    """The split that is asked for. Raises InputError for one that is none."""
    if split is None:
        return "predict" if _has_own(data, "predict_dataloader") else "test"
    if split not in SPLITS:
        raise InputError(f"--split {split} is none of {', '.join(SPLITS)}")
    return split


def predict_split(trainer: Any, model: L.LightningModule, data: L.LightningDataModule, split: str) -> list[Any]:
    """What the module predicts of each batch of a split, in the order of its samples."""
    here: Any = data
    if isinstance(data, DataModule) and not _has_own(data, "predict_dataloader"):
        here.to_predict = "test" if split == "predict" else split
        if getattr(data.splits, here.to_predict) is None:
            raise InputError(f"{type(data).__name__} has no {here.to_predict} data set to predict")
    else:
        if split == "train":
            raise InputError(
                f"the training loader of {type(data).__name__} may shuffle, and a table must have an order; give "
                "--split val or test, or write a predict_dataloader"
            )
        hook, stage = _HOOKS[split]
        if not is_overridden(hook, data):
            raise InputError(f"{type(data).__name__} has no {hook}, so there is nothing to predict")
        data.prepare_data()
        here.trainer = trainer
        data.setup(stage)
        # Made here: of one made while Lightning asks for it, it takes the arguments apart, and stumbles over
        # DataLoader(data, 32).
        loader = getattr(data, hook)()
        here.prepare_data, here.predict_dataloader = _nothing, lambda: loader
    return _flat(trainer.predict(model, datamodule=data))


def _predict_samples(
    trainer: Any, model: L.LightningModule, data: L.LightningDataModule, samples: Samples
) -> list[Any]:
    if isinstance(data, DataModule):
        here: Any = data
        here.to_predict, here.prepare_data = samples.columns, _nothing  # what is not read is not fetched
        here.predict_dataloader = DataModule.predict_dataloader.__get__(data)
        return _flat(trainer.predict(model, datamodule=data))
    size = getattr(data, "batch_size", None)
    dataset = as_dataset(samples.columns)
    loader = DataLoader(dataset, batch_size=size if isinstance(size, int) and size > 0 else 64)
    return _flat(trainer.predict(model, dataloaders=loader))


def _nothing() -> None:
    pass


def _flat(found: Any) -> list[Any]:
    """Batch after batch, also where there were several loaders."""
    found = found or []
    batches = [batch for loader in found for batch in loader] if found and isinstance(found[0], list) else found
    return list(batches)


def _an_input(data: L.LightningDataModule, trainer: Any) -> Tensor:
    """One input of the training, to see how they are."""
    if not isinstance(data, DataModule):
        raise InputError(
            f"pictures are brought to the form of the training's inputs, which {type(data).__name__} does not tell, "
            "being no DataModule of metronome; give arrays in a .npy file"
        )
    data.prepare_data()
    dataset = next(split for split in data.splits if split is not None)
    found = [leaf for leaf in tree_leaves(dataset[0]) if isinstance(leaf, Tensor)]
    if not found:
        raise InputError(f"the samples of {type(data).__name__} have no tensor that pictures could be brought to")
    return found[0]


# ---- what predicts ------------------------------------------------------------------------------------


def _check_predicts(model: L.LightningModule, from_file: bool) -> None:
    if is_overridden("predict_step", model) or (from_file and is_overridden("forward", model)):
        return
    raise InputError(
        f"{type(model).__name__} has no predict_step; write predict_step(self, batch, batch_idx), which returns a "
        "tensor, or a tuple or dict of tensors, a row a sample"
    )


def _has_own(data: L.LightningDataModule, hook: str) -> bool:
    """Whether it is the user's: neither Lightning's nor this library's."""
    found = inspect.unwrap(getattr(type(data), hook))
    return found not in (getattr(L.LightningDataModule, hook), getattr(DataModule, hook))
