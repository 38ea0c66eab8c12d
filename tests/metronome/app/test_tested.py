"""What the result says of the test is of the checkpoint that it names, whatever callbacks do to the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from jobs import Data, Net, trainer, weights
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from metronome.app.run.tested import callbacks_leave_the_weights

AVERAGES = {
    "EMAWeightAveraging": "decay: 0.99",
    "WeightAveraging": "use_buffers: true",
    "StochasticWeightAveraging": "swa_lrs: 0.01, swa_epoch_start: 1",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n[0] != "E" else ()) for n in AVERAGES])
def test_with_lightnings_average_of_weights(name: str, commands: Commands) -> None:
    job = ("+experiment=digits", "trainer=cpu", "trainer.max_epochs=2", "model=mlp", "logger=none")
    average = f"+callbacks.average={{_target_: lightning.pytorch.callbacks.{name}, {AVERAGES[name]}}}"
    done = commands("train", *job, average)
    assert done.code == 0, done.err
    tested = {name: value for name, value in done.result["metrics"].items() if name.startswith("test/")}
    again = commands("evaluate", str(done.run / done.result["best"]["checkpoint"]))
    assert json.loads(again.out) == pytest.approx(tested, rel=1e-6)


class Tested(Net):
    swaps_itself = False

    def on_test_start(self) -> None:
        if self.swaps_itself:
            self.net[0].bias.data.fill_(3.0)  # pyright: ignore

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen: Tensor = weights(self)


class Swaps(Callback):
    """As an average of weights in memory is used: put in place for the test, and taken back."""

    def __init__(self, hook: str, in_place: bool) -> None:
        self.in_place = in_place
        setattr(self, hook, self.swap)

    def swap(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.before = [parameter.detach().clone() for parameter in pl_module.parameters()]
        self.average = [torch.full_like(value, 0.5) for value in self.before]
        for parameter, value in zip(pl_module.parameters(), self.average, strict=True):
            if self.in_place:
                parameter.data.copy_(value)
            else:
                parameter.data = value

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        for parameter, value in zip(pl_module.parameters(), self.before, strict=True):
            parameter.data.copy_(value)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("hook", ["on_test_start", "on_test_epoch_start", "on_test_batch_start"])
@pytest.mark.parametrize("by_module", [True, False])
def test_with_an_average_in_memory(
    hook: str, in_place: bool, by_module: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    swaps, save = Swaps(hook, in_place), ModelCheckpoint(tmp_path)

    class Brings(Tested):
        def configure_callbacks(self) -> Any:
            return [swaps] if by_module else []

    run = trainer(max_epochs=1, callbacks=[save] if by_module else [swaps, save], enable_checkpointing=True)
    model = Brings()
    run.fit(model, datamodule=Data(batch_size=32))
    saved = torch.load(save.best_model_path)["state_dict"]
    here: Any = run
    before = list(here.callbacks)
    with callbacks_leave_the_weights(run, save.best_model_path):
        run.test(model, datamodule=Data(batch_size=32), ckpt_path=save.best_model_path, verbose=False)
    assert torch.equal(model.seen, torch.cat([value.flatten() for value in saved.values()]))
    assert here.callbacks == before
    assert [value.unique().tolist() for value in swaps.average] == [[0.5]] * 4, (
        "the average of the callback is as it was"
    )
    assert len([r for r in caplog.records if "put other weights in place" in r.getMessage()]) == 1


def test_what_the_module_does_by_itself_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save, model = ModelCheckpoint(tmp_path), Tested()
    run = trainer(max_epochs=1, callbacks=[save], enable_checkpointing=True)
    run.fit(model, datamodule=Data(batch_size=32))
    model.swaps_itself = True
    with callbacks_leave_the_weights(run, save.best_model_path):
        run.test(model, datamodule=Data(batch_size=32), ckpt_path=save.best_model_path, verbose=False)
    assert (model.net[0].bias == 3.0).all()  # pyright: ignore
    assert not caplog.records
