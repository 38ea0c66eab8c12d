"""A last, smaller batch: as many micro-batches on all devices, none of one sample but where it must be."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data, Net, X, Y, fit, plain_loop, weights
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric

from metronome.training import Trainer
from metronome.units import InputError


class Meets(Net):
    """All devices meet in every training_step, as where a metric is brought together in each."""

    def __init__(self, record: Path) -> None:
        super().__init__(record=record)
        self.seen = MeanMetric(dist_sync_on_step=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen(batch[1])
        distributed.all_reduce(torch.ones(1))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("devices", "accumulation", "num_samples", "batch_size"),
    [
        (2, 2, 131, 32),  # last shares of 2 and 1 samples
        pytest.param(2, 2, 131, 4, marks=pytest.mark.slow),  # the same, where micro-batches have one sample each
        (2, 3, 157, 31),  # shares of 16 and 15, and of 1 and 1
        pytest.param(3, 2, 35, 4, marks=pytest.mark.slow),  # 2, 1 and 1 samples; the last 1, 1 and 1
        (3, 2, 37, 4),  # the last batch leaves two devices without a share
    ],
)
def test_devices_meet_in_every_micro_batch(
    devices: int, accumulation: int, num_samples: int, batch_size: int, tmp_path: Path
) -> None:
    record, data = tmp_path / "seen.pt", Data(num_samples, batch_size=batch_size)
    fit(
        model=Meets(record), data=data, accumulate_grad_batches=accumulation, devices=devices, strategy="ddp_fork"
    )  # fmt: skip
    seen, (expected, losses) = torch.load(record), plain_loop(batch_size, num_samples=num_samples)
    for found, wanted in (("weights", expected), ("step_losses", losses), ("logged", losses)):
        torch.testing.assert_close(torch.as_tensor(seen[found]), torch.as_tensor(wanted), rtol=1e-12, atol=1e-15)
    assert seen["counters"]["iterations"] == seen["plan"]["total_iterations"]


class Stream(torch.utils.data.IterableDataset):
    """A loader of one's own: the devices' shares are of 5 and 3 samples, then of 1 and 2."""

    def __iter__(self) -> Any:
        for share in ((range(5), [8]), (range(5, 8), [9, 10]))[distributed.get_rank()]:
            yield X[list(share)], Y[list(share)]


class Shares(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(), batch_size=None)


def test_shares_of_a_loader_of_ones_own(tmp_path: Path) -> None:
    record = tmp_path / "seen.pt"
    model = Meets(record)
    net = Net().net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for batch in (slice(0, 8), slice(8, 11)):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
        optimizer.step()
        schedule.step()

    class Keeps(L.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            if trainer.is_global_zero:
                torch.save(weights(module), record)

    model.record = None
    fit(
        model=model, data=Shares(), accumulate_grad_batches=2, devices=2, strategy="ddp_fork", max_epochs=1,
        callbacks=[Keeps()],
    )  # fmt: skip
    torch.testing.assert_close(torch.load(record), weights(net), rtol=1e-12, atol=1e-15)


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)).double()


@pytest.mark.parametrize(("num_samples", "pieces"), [(132, 2), (131, 1), (130, 1), (137, 4)])
def test_no_sample_is_alone(num_samples: int, pieces: int) -> None:
    """4, 3, 2 and 9 samples in the last batch, where whole ones are cut in four pieces of 8."""
    _, trainer = fit(
        model=Normed(), data=Data(num_samples, batch_size=32), accumulate_grad_batches=4, max_epochs=1
    )  # fmt: skip
    assert isinstance(trainer, Trainer)
    assert trainer.plan is not None
    assert trainer.counters.iterations == trainer.plan.total_iterations == 4 * 4 + pieces


@pytest.mark.parametrize("accumulation", [4, "auto"])
def test_one_that_must_be(accumulation: Any) -> None:
    with pytest.raises(InputError, match=r"one sample alone in step 5, whose batch of 1 is .*data\.drop_last=true"):
        fit(model=Normed(), data=Data(129, batch_size=32), accumulate_grad_batches=accumulation, max_epochs=1)
    fit(
        model=Normed(), data=Data(129, batch_size=32, drop_last=True), accumulate_grad_batches=accumulation,
        max_epochs=1,
    )  # fmt: skip


def test_micro_batches_of_one_sample() -> None:
    with pytest.raises(InputError, match=r"fewer micro-batches than trainer\.accumulate_grad_batches=32"):
        fit(model=Normed(), data=Data(batch_size=32), accumulate_grad_batches=32, max_epochs=1)
