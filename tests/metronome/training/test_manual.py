"""Modules that optimize manually: shares of different sizes weigh right, what is not finite is found, budgets hold."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import SEED, Data, X, Y, fit, network, weights
from torch import Tensor, nn

from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError, RunFailed


class Manual(L.LightningModule):
    """Two networks with an optimizer each; the second learns what the first one gets wrong."""

    def __init__(self, record: Path | None = None, bad: int = -1, by_hand: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second, self.record, self.bad, self.by_hand = network(), network(), record, bad, by_hand

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        losses = losses_of(self.first, self.second, x, y)
        if batch_idx == self.bad:
            losses = [loss * math.inf for loss in losses]
        optimizers: Any = self.optimizers()
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward() if self.by_hand else self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        self.log("loss", losses[0], on_step=True, on_epoch=True)

    def on_train_end(self) -> None:
        if self.record is not None and self.trainer.is_global_zero:
            torch.save(weights(self), self.record)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (self.first, self.second)]


def losses_of(first: nn.Module, second: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    found = first(x)
    return [nn.functional.mse_loss(found, y), nn.functional.mse_loss(second(x), y - found.detach())]


def plain_loop(num_samples: int, batch_size: int, steps: int) -> Tensor:
    nets = network(), network()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    made = 0
    for epoch in range(steps):
        for batch in torch.from_numpy(epoch_order(SEED, epoch, num_samples)).split(batch_size):
            if made == steps:
                return torch.cat([weights(net) for net in nets])
            losses = losses_of(*nets, X[batch], Y[batch])
            for optimizer, loss in zip(optimizers, losses, strict=True):
                optimizer.zero_grad()
                loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            made += 1
    raise AssertionError


@pytest.mark.parametrize(
    ("devices", "num_samples", "batch_size"), [(2, 131, 31), (3, 130, 32), (2, 129, 32), (1, 157, 32)]
)
def test_shares_weigh_as_much_as_they_hold(devices: int, num_samples: int, batch_size: int, tmp_path: Path) -> None:
    record = tmp_path / "weights.pt"
    several = {"devices": devices, "strategy": "ddp_fork_find_unused_parameters_true"} if devices > 1 else {}
    fit(model=Manual(record), data=Data(num_samples, batch_size=batch_size), max_epochs=2, **several)
    expected = plain_loop(num_samples, batch_size, 2 * -(-num_samples // batch_size))
    torch.testing.assert_close(torch.load(record), expected, rtol=1e-12, atol=1e-14)


def test_what_is_not_finite_is_found() -> None:
    model = Manual(bad=2)
    with pytest.raises(RunFailed, match=r"not finite in step 5 "):  # counted in updates, of which a batch makes two
        fit(model=model, data=Data(batch_size=32))
    torch.testing.assert_close(weights(model), plain_loop(157, 32, 2), rtol=1e-12, atol=1e-14)
    with pytest.raises(InputError, match=r"Manual optimizes manually.*on_nonfinite=stop"):
        fit(model=Manual(), data=Data(batch_size=32), on_nonfinite="skip")


@pytest.mark.parametrize(("budget", "steps"), [("1.5 epochs", 8), ("7 steps", 7), ("96 samples", 3), ("2 epochs", 10)])
def test_a_budget_is_of_batches(budget: str, steps: int) -> None:
    """157 / 32 = 5 steps an epoch, of two updates each."""
    model, run = fit(model=Manual(), data=Data(batch_size=32), max_epochs=None, budget=budget)
    assert run.plan.total_steps == steps
    assert run.global_step == 2 * steps
    assert run.counters.samples == sum(([32] * 4 + [29])[i % 5] for i in range(steps))
    torch.testing.assert_close(weights(model), plain_loop(157, 32, steps), rtol=1e-12, atol=1e-14)


def test_one_that_passes_back_by_itself_is_told() -> None:
    import warnings

    from jobs import trainer

    with pytest.warns(UserWarning, match=r"Manual calls backward\(\) itself.*manual_backward"):
        trainer(max_epochs=1).fit(Manual(by_hand=True), datamodule=Data(batch_size=32))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer(max_epochs=1).fit(Manual(), datamodule=Data(batch_size=32))
    assert not [warning for warning in said if "backward()" in str(warning.message)]
