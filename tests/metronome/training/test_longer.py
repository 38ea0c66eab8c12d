"""A run that goes on from its end with a longer budget: each step at the rate that the longer run has there."""

from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, StepLR

from metronome.models import Regressor
from metronome.models.schedulers import Plateau, cosine, multistep, onecycle, step, wsd


class Rates(Callback):
    """The rates of all groups at each update."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append([float(group["lr"]) for group in optimizer.param_groups])


def two_groups(parameters: Any, tensor: bool = False, **options: Any) -> Optimizer:
    first, *others = parameters
    rates = [torch.tensor(rate) if tensor else rate for rate in (0.1, 0.025)]
    groups = [{"params": [first], "lr": rates[0]}, {"params": others, "lr": rates[1]}]
    return torch.optim.Adam(groups, foreach=False, **options)


def train(model: Any, budget: str, checkpoint: Path | None = None) -> tuple[Any, list[list[float]]]:
    """3 steps an epoch."""
    rates = Rates()
    path = None if checkpoint is None else str(checkpoint)
    data = jobs.Data(batch_size=64)
    _, run = jobs.fit(model=model, data=data, callbacks=[rates], checkpoint=path, max_epochs=None, budget=budget)
    return run, rates.seen


def went_on(make: Any, path: Path, *budgets: str) -> tuple[list[list[float]], list[list[float]], Any]:
    """The rates of a run that goes on with the second budget from the end of the first one; those of a run that had
    the second from the start; and the first run."""
    short, first = train(make(), budgets[0])
    short.save_checkpoint(path / "end.ckpt")
    _, direct = train(make(), budgets[1])
    _, found = train(make(), budgets[1], path / "end.ckpt")
    assert len(first) + len(found) == len(direct)
    return found, direct[len(first) :], short


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "scheduler",
    [
        cosine,
        wsd,
        onecycle,
        multistep,
        partial(step, every="25%"),
        partial(Plateau, patience="50%"),
        partial(cosine, warmup="60%"),
    ],
    ids=["cosine", "wsd", "onecycle", "multistep", "step", "plateau", "warm-up"],
)
def test_the_first_step_too(scheduler: Any, tensor: bool, tmp_path: Path) -> None:
    def make() -> Any:
        optimizer = partial(two_groups, tensor=tensor)
        return Regressor(network=jobs.network(), optimizer=optimizer, scheduler=scheduler)

    found, expected, _ = went_on(make, tmp_path, "1 epoch", "2 epochs")
    assert found == expected
    assert len(found) == 3
    assert all(first > 0 for first, _ in found[:-1])


class Own(jobs.Net):
    """Schedulers of PyTorch alone."""

    def __init__(self, *makes: Any) -> None:
        super().__init__()
        self.makes = makes

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": make(optimizer), "interval": "step"} for make in self.makes]


HALF = partial(LambdaLR, lr_lambda=lambda step: 0.5**step)
THIRD = partial(StepLR, step_size=1, gamma=1 / 3)


def test_one_that_multiplies_what_there_is_stays(tmp_path: Path) -> None:
    found, expected, _ = went_on(lambda: Own(THIRD), tmp_path, "2 steps", "4 steps")
    assert found == expected


def test_two_of_one_optimizer_stay(tmp_path: Path) -> None:
    """The rate is not that of the first alone."""
    found, expected, short = went_on(lambda: Own(HALF, THIRD), tmp_path, "2 steps", "4 steps")
    assert found == expected
    assert found[0] != short.lr_scheduler_configs[0].scheduler.get_last_lr()


def test_a_schedule_of_torch_that_has_changed(tmp_path: Path) -> None:
    run, _ = train(Own(HALF), "2 steps")
    run.save_checkpoint(tmp_path / "end.ckpt")
    tenth = partial(LambdaLR, lr_lambda=lambda step: 0.1**step)
    _, found = train(Own(tenth), "4 steps", tmp_path / "end.ckpt")
    assert [rate for (rate,) in found] == pytest.approx([1e-3, 1e-4])
