"""The rates of every step, worked by hand."""

from functools import partial
from math import cos, pi
from typing import Any

import jobs
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from metronome.data import DataModule, Splits
from metronome.models import Regressor
from metronome.models.schedulers import constant, cosine
from metronome.units import BatchSchedule, Duration, InputError, Plan


class Data(DataModule):
    """20 samples; with a batch size of 4, 5 steps an epoch."""

    def load(self) -> Splits:
        return Splits(train=(jobs.X[:20], jobs.Y[:20]))


class Rates(Callback):
    """The learning rate of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates(scheduler: Any, batch_size: int = 4, lr: float = 1.0, data: Any = None, **flags: Any) -> list[float]:
    """The rates at which a training updates."""
    seen = Rates()
    model = Regressor(network=jobs.network(), optimizer=partial(torch.optim.SGD, lr=lr), scheduler=scheduler)
    data = data or Data(batch_size=batch_size)
    if "budget" in flags:
        flags["max_epochs"] = None
    jobs.fit(model=model, data=data, callbacks=[seen], **flags)
    return seen.rates


def plan(budget: str) -> Plan:
    return Plan.make(20, BatchSchedule(4), budgets=[Duration.parse(budget)])


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=lr)


def half_cosine(steps: int) -> list[float]:
    """From 1 to 0 in so many steps, the first and the last included."""
    return [(1 + cos(pi * i / (steps - 1))) / 2 for i in range(steps)]


@pytest.mark.parametrize(
    ("options", "flags", "expected"),
    [
        # (1 + cos(pi i / 4)) / 2
        ({}, {"max_epochs": 1}, [1, 0.8535534, 0.5, 0.1464466, 0]),
        ({"final": 0.2}, {"max_epochs": 1}, [1, 0.8828427, 0.6, 0.3171573, 0.2]),
        ({"final": 1.0}, {"max_epochs": 1}, [1, 1, 1, 1, 1]),
        ({"warmup": "2 steps"}, {"max_epochs": 1}, [1 / 3, 2 / 3, 1, 0.5, 0]),
        ({"warmup": "40%"}, {"max_epochs": 1}, [1 / 3, 2 / 3, 1, 0.5, 0]),
        ({"warmup": Duration(2, "steps")}, {"max_epochs": 1}, [1 / 3, 2 / 3, 1, 0.5, 0]),
        ({"warmup": "8 samples"}, {"max_epochs": 1}, [1 / 3, 2 / 3, 1, 0.5, 0]),
        ({"warmup": "4 steps"}, {"max_epochs": 1}, [0.2, 0.4, 0.6, 0.8, 1]),
        ({"warmup": "1 epoch"}, {"budget": "2 epochs"}, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, *half_cosine(5)]),
        ({"warmup": "1 epoch"}, {"max_steps": 8, "max_epochs": -1}, [i / 6 for i in range(1, 6)] + [1, 0.5, 0]),
        ({"warmup": "50%"}, {"budget": "40 samples"}, [i / 6 for i in range(1, 6)] + half_cosine(5)),
        ({"warmup": "0 steps"}, {"budget": "2 steps"}, [1, 0]),
        ({}, {"budget": "1 step"}, [1]),
        ({"warmup": "3 steps"}, {"limit_train_batches": 2, "max_epochs": 3}, [0.25, 0.5, 0.75, 1, 0.5, 0]),
        ({"warmup": "2 steps"}, {"max_epochs": 1, "accumulate_grad_batches": 3}, [1 / 3, 2 / 3, 1, 0.5, 0]),
    ],
)
def test_cosine(options: dict[str, Any], flags: dict[str, Any], expected: list[float]) -> None:
    assert rates(partial(cosine, **options), **flags) == pytest.approx(expected, abs=1e-7)


def test_cosine_scales_the_rate_of_the_optimizer() -> None:
    expected = [0.02 / 3, 0.04 / 3, 0.02, 0.011, 0.002]
    assert rates(partial(cosine, warmup="2 steps", final=0.1), lr=0.02, max_epochs=1) == pytest.approx(expected)


def test_cosine_stays_at_the_end() -> None:
    rate = optimizer()
    schedule = cosine(rate, plan("1 epoch"), final=0.1)
    for _ in range(7):
        rate.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("warmup", "budget", "message"),
    [
        ("5 steps", "1 epoch", "scheduler.warmup=5 steps is 5 steps, and the run has 5; make it shorter"),
        ("2 epochs", "1 epoch", "scheduler.warmup=2 epochs is 10 steps, and the run has 5; make it shorter"),
        ("100%", "3 steps", "scheduler.warmup=100% is 3 steps, and the run has 3; make it shorter"),
        ("1 min", "1 epoch", "`1 min` is not known in steps; write epochs, steps, samples or %"),
        ("5", "1 epoch", "`5` has no unit; add one, e.g. `5 steps` or `5 epochs`"),
        ("1 step", "1 min", "scheduler=cosine must know the end; give the budget in epochs, steps or samples"),
    ],
)
def test_what_cosine_refuses(warmup: str, budget: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        cosine(optimizer(), plan(budget), warmup=warmup)
    assert str(error.value) == message


def test_constant() -> None:
    assert rates(constant, lr=0.03, max_epochs=2) == [0.03] * 10
    assert rates(None, lr=0.03, max_epochs=2) == [0.03] * 10


# ---- schedulers written elsewhere -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "total_steps"),
    [
        ({"max_epochs": 3}, 15),
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, 15),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"budget": "30 samples"}, 8),  # 7.5
    ],
)
def test_one_cycle(flags: dict[str, Any], total_steps: int) -> None:
    """Torch's own schedule, stepped alone; its last update is at max_lr / div_factor / final_div_factor."""
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.5, div_factor=10, final_div_factor=100)
    alone, expected = optimizer(), []
    schedule = cycle(alone, total_steps=total_steps)
    for _ in range(total_steps):
        expected.append(schedule.get_last_lr()[0])
        alone.step()
        schedule.step()
    found = rates(cycle, **flags)
    assert found == pytest.approx(expected)
    assert found[0] == pytest.approx(0.05)
    assert found[-1] == pytest.approx(0.0005)
    assert max(found) <= 0.5


def test_a_scheduler_that_needs_no_total() -> None:
    step = partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.1)
    expected = [1.0] * 4 + [0.1] * 4 + [0.01] * 2
    assert rates(step, max_epochs=2) == pytest.approx(expected)
    assert rates(step, max_epochs=2, accumulate_grad_batches=2) == pytest.approx(expected)
    assert rates(step, budget="1 min", limit_train_batches=0) == []  # no total, none asked for


def takes_both(optimizer: Any, plan: Any, total_steps: Any, got: dict[str, Any]) -> Any:
    got.update(plan=plan, total_steps=total_steps)
    return constant(optimizer)


def takes_plan(optimizer: Any, got: dict[str, Any], plan: Any = None) -> Any:
    got.update(plan=plan)
    return constant(optimizer)


def takes_total(optimizer: Any, *, total_steps: int = 3, got: dict[str, Any]) -> Any:
    got.update(total_steps=total_steps)
    return constant(optimizer)


def takes_neither(optimizer: Any, got: dict[str, Any], **others: Any) -> Any:
    got.update(others)
    return constant(optimizer)


class Takes:
    """A callable that has no name."""

    def __call__(self, optimizer: Any, total_steps: Any, got: dict[str, Any]) -> Any:
        return takes_total(optimizer, total_steps=total_steps, got=got)


@pytest.mark.parametrize(
    ("scheduler", "bound", "passed"),
    [
        (takes_both, {}, {"plan": "the plan", "total_steps": 10}),
        (takes_both, {"total_steps": 4}, {"plan": "the plan", "total_steps": 4}),
        (takes_both, {"plan": "mine"}, {"plan": "mine", "total_steps": 10}),
        (takes_both, {"plan": "mine", "total_steps": 4}, {"plan": "mine", "total_steps": 4}),
        (takes_plan, {}, {"plan": "the plan"}),
        (takes_total, {}, {"total_steps": 10}),
        (takes_total, {"total_steps": 4}, {"total_steps": 4}),
        (takes_neither, {}, {}),
        (takes_neither, {"total_steps": 4}, {"total_steps": 4}),
        (Takes(), {}, {"total_steps": 10}),
    ],
)
def test_what_a_scheduler_is_given(scheduler: Any, bound: dict[str, Any], passed: dict[str, Any]) -> None:
    got: dict[str, Any] = {}
    assert rates(partial(scheduler, got=got, **bound), max_epochs=2) == [1.0] * 10
    if passed.get("plan") == "the plan":
        assert isinstance(got["plan"], Plan)
        assert got["plan"].total_steps == 10
        passed = passed | {"plan": got["plan"]}
    assert got == passed


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (cosine, "scheduler=cosine must know the end; give the budget in epochs, steps or samples"),
        (partial(cosine, warmup="5%"), "scheduler=cosine must know the end"),
        (
            partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0),
            "scheduler OneCycleLR must know the number of steps",
        ),
        (partial(Takes(), got={}), "scheduler Takes must know the number of steps"),
    ],
)
def test_a_time_budget_has_no_total(scheduler: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        rates(scheduler, budget="1 min")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
