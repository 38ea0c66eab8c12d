"""Loss and mean absolute error against those worked in a plain loop, over all samples of an epoch."""

from functools import partial
from typing import Any

import jobs
import pytest
import torch
from torch import Tensor, nn

from metronome.data import DataModule, Splits
from metronome.models import Regressor
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError
from project.models import mlp

X = jobs.X
PARTS = {"train": slice(0, 50), "val": slice(50, 83), "test": slice(83, 120)}


def targets(columns: int) -> Tensor:
    return X[:, :columns] * 3 + jobs.Y


class Data(DataModule):
    """50 samples to train, in batches of 16, 16, 16 and 2; 33 to validate, 37 to test."""

    def __init__(self, targets: Tensor, batch_size: int = 16, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.targets = targets

    def load(self) -> Splits:
        return Splits(*((X[part], self.targets[part]) for part in PARTS.values()))


def network(num_outputs: int) -> nn.Module:
    torch.manual_seed(1)
    return mlp(10, num_outputs, hidden=(8,)).double()


def regressor(num_outputs: int) -> Regressor:
    return Regressor(network=network(num_outputs), optimizer=partial(torch.optim.SGD, lr=0.05))


def worked(columns: int, epochs: int = 2) -> dict[str, float]:
    """The metrics after a training in a plain loop."""
    net, y, metrics = network(columns), targets(columns), {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.from_numpy(epoch_order(jobs.SEED, epoch, 50)).split(16):
            optimizer.zero_grad()
            squares = (net(X[batch]) - y[batch]) ** 2
            squares.mean().backward()
            optimizer.step()
            total += squares.mean(1).sum().item()
            metrics["train/loss"] = squares.mean().item()
        metrics["train/loss_epoch"] = total / 50
    for stage in ("val", "test"):
        with torch.no_grad():
            errors = net(X[PARTS[stage]]) - y[PARTS[stage]]
        metrics[f"{stage}/loss"] = (errors**2).mean().item()
        metrics[f"{stage}/mae"] = errors.abs().mean().item()
    return metrics


def named(metrics: dict[str, float], stage: str) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(stage)}


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(
    ("accumulate", "eval_batch_size"),
    [(1, None), (3, None), (3, 7), (16, 33)],  # the last batch, of 2, in two pieces; None: 16 and 6
)
def test_metrics_are_those_over_all_samples(accumulate: int, eval_batch_size: int | None, columns: int) -> None:
    expected = worked(columns)
    model, data = regressor(columns), Data(targets(columns), eval_batch_size=eval_batch_size)
    _, trainer = jobs.fit(model=model, data=data, max_epochs=2, accumulate_grad_batches=accumulate)
    after_fit = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert after_fit == pytest.approx(named(expected, "train") | named(expected, "val"), rel=1e-6)
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        (found,) = run(model, datamodule=data, verbose=False)
        assert found == pytest.approx(named(expected, stage), rel=1e-6)


@pytest.mark.parametrize(
    ("num_outputs", "shape"),
    [
        (1, ()),  # (16, 1) against (16,) would be broadcast to (16, 16)
        (2, (1,)),
        (1, (2,)),
        (2, (3,)),
        (1, (1, 1)),
    ],
)
def test_shapes_that_differ(num_outputs: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as error:
        jobs.fit(model=regressor(num_outputs), data=Data(torch.zeros(157, *shape, dtype=torch.float64)))
    assert str(error.value) == (
        f"the network's outputs have shape (16, {num_outputs}) and the targets {(16, *shape)}; they must be equal"
        + ("; for a column of targets write y[:, None]" if (num_outputs, shape) == (1, ()) else "")
    )
