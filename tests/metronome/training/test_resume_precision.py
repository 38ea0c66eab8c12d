"""A resumed run ends with bitwise the same weights in every precision; on another layout the same to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Data, Net, X, Y, fit, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint

from metronome.data import Splits


class Single(Net):
    """In float32, as modules are before a Trainer converts them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net.float()


class SingleData(Data):
    def load(self) -> Splits:
        x, y = X.float(), Y.float()
        return Splits(train=(x, y), val=(x[:23], y[:23]), test=(x[:31], y[:31]))


def run(folder: Path | None = None, model: Net | None = None, **flags: Any) -> tuple[Any, Any]:
    save = [ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)] if folder else []
    model = model or Single(dropout=0.2)
    return fit(model=model, data=SingleData(batch_size=32), callbacks=save, enable_checkpointing=bool(save), **flags)


PRECISIONS = {
    "32-true": torch.float32, "64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.float32,
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(precision: str, tmp_path: Path) -> None:
    whole, _ = run(tmp_path, precision=precision)
    assert weights(whole).dtype is PRECISIONS[precision]
    for step in (3, 5, 7):  # 5 steps an epoch
        again, _ = run(precision=precision, checkpoint=str(tmp_path / f"step={step}.ckpt"))
        assert torch.equal(weights(again), weights(whole)), step


def test_another_layout_in_double(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, Single(), precision="64-true")
    layouts: list[dict[str, Any]] = [{"accumulate_grad_batches": 3}, {"devices": 2, "strategy": "ddp_fork"}]
    for layout in layouts:
        model = Single(record=tmp_path / "seen")  # other processes leave their weights here in float32
        run(None, model, precision="64-true", checkpoint=str(tmp_path / "step=7.ckpt"), **layout)
        again = torch.load(tmp_path / "seen", weights_only=False)["weights"]
        torch.testing.assert_close(again, weights(whole), rtol=1e-12, atol=1e-15)


def test_an_evaluation_has_the_weights_of_the_file(tmp_path: Path) -> None:
    whole, _ = run(tmp_path, precision="64-true")
    model = Single()
    trainer(precision="64-true").validate(
        model, datamodule=SingleData(batch_size=32), ckpt_path=str(tmp_path / "step=20.ckpt"), weights_only=True
    )
    assert torch.equal(weights(model), weights(whole))
