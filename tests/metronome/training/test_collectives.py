"""What a step on several devices sends, and what it waits for: the gradients alone, between two log points."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data, X, Y, fit, network
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, TensorDataset

from metronome.training.guards import agreement

STEPS = 8


class Counts(Callback):
    """Counts torch.distributed's calls of a step, by the first process, from the third step on."""

    __module__ = "metronome.test"  # or its hook could look at the loss, which would then be brought together

    def __init__(self, record: Path) -> None:
        self.record, self.calls, self.steps = record, [], 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name in ("all_reduce", "barrier", "broadcast", "all_gather", "all_gather_object", "reduce"):
            setattr(distributed, name, self.counted(name, getattr(distributed, name)))

    def counted(self, name: str, call: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            self.calls.append((self.steps, name, "sent" if options.get("async_op") else "waited for"))
            return call(*arguments, **options)

        return counting

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps = trainer.global_step
        if self.steps == STEPS and trainer.is_global_zero:
            self.record.write_text(json.dumps([call for call in self.calls if 2 <= call[0] < STEPS]))


Counts.on_train_batch_end.__module__ = Counts.__module__


class Quiet(L.LightningModule):
    """Logs one value, or none."""

    def __init__(self, does_log: bool, optimizer: str = "sgd") -> None:
        super().__init__()
        self.net, self.does_log, self.optimizer_name = network(), does_log, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        if self.does_log:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        if self.optimizer_name == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=1)
        return torch.optim.SGD(self.parameters(), lr=0.1)


# The gradients' own all-reduce is made by DistributedDataParallel in C++, and is not among these.
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("seconds", "exchanges"), [(0.0, 1), (1e9, 0)])  # between stops, saves, what is not finite
@pytest.mark.parametrize(
    ("does_log", "optimizer", "sent", "waited_for"),
    [
        (False, "sgd", 0, 0),
        (True, "sgd", 1, 0),  # the logged value
        (False, "lbfgs", 0, 1),  # the loss, which L-BFGS looks at
    ],
)
def test_what_a_step_sends(
    does_log: bool,
    optimizer: str,
    sent: int,
    waited_for: int,
    seconds: float,
    exchanges: int,
    accumulation: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agreement, "_SECONDS", seconds)
    record, sent = tmp_path / "calls.json", sent + exchanges
    fit(
        model=Quiet(does_log, optimizer), data=Data(batch_size=32), callbacks=[Counts(record)], devices=2,
        strategy="ddp_fork", accumulate_grad_batches=accumulation, max_epochs=-1, max_steps=STEPS,
    )  # fmt: skip
    calls = json.loads(record.read_text())
    for step in range(3, 5):  # of 5 steps an epoch, these begin and end none
        found = [(name, how) for at, name, how in calls if at == step]
        assert sorted(found) == sorted([("all_reduce", "sent")] * sent + [("all_reduce", "waited for")] * waited_for), (
            step
        )


def test_samples_of_another_loader_are_counted_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one small sum and without a barrier; in the group of the CPU, so that nothing of a GPU is waited for."""
    monkeypatch.setattr(agreement, "_SECONDS", 1e9)
    record = tmp_path / "calls.json"

    class Loads(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(X, Y), batch_size=16)

    fit(
        model=Quiet(False), data=Loads(), callbacks=[Counts(record)], devices=2, strategy="ddp_fork",
        max_epochs=-1, max_steps=STEPS,
    )  # fmt: skip
    calls = json.loads(record.read_text())
    assert [call[1:] for call in calls if call[0] == 3] == [["all_reduce", "waited for"]]
