"""The rates of every step, worked by hand."""

from functools import partial
from itertools import pairwise
from math import cos, inf, isclose, nan, pi, sqrt
from pathlib import Path
from typing import Any

import jobs
import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from metronome.data import DataModule, Splits
from metronome.models import Regressor
from metronome.models.schedulers import Plateau, constant, cosine, multistep, onecycle, step, wsd
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
    assert rates(partial(constant, warmup="3 steps"), max_epochs=1) == [0.25, 0.5, 0.75, 1, 1]


def test_a_warmup_without_a_plan() -> None:
    """Data of unknown length have none."""
    schedule = constant(rate := optimizer(), warmup="1 step")
    rate.step()
    assert schedule.get_last_lr() == [0.5]
    with pytest.raises(
        InputError, match=r"scheduler\.warmup=1 epoch needs training data of a known length; give it in steps"
    ):
        constant(optimizer(), warmup="1 epoch")


# ---- falling in steps -------------------------------------------------------------------------------------------

GROWING: dict[str, Any] = {"batch_size": 4, "batch_growth": {"factor": 2}}  # 20 samples: 5, 3, 2, 1, 1, ... steps


@pytest.mark.parametrize(
    ("options", "flags", "expected"),
    [
        ({"every": "2 steps"}, {"max_epochs": 1}, [1, 1, 0.1, 0.1, 0.01]),
        ({"every": "2 steps", "factor": 0.5}, {"max_epochs": 1}, [1, 1, 0.5, 0.5, 0.25]),
        ({"every": "1 epoch", "factor": 0.5}, {"max_epochs": 3}, [1] * 5 + [0.5] * 5 + [0.25] * 5),
        ({"every": "0.5 epochs", "factor": 0.5}, {"max_epochs": 1}, [1, 1, 1, 0.5, 0.5]),  # 2.5 steps
        # after 2.5, 5, 7.5 steps: never further off than part of a step
        ({"every": "0.5 epochs", "factor": 0.5}, {"budget": "9 steps"}, [1] * 3 + [0.5] * 2 + [0.25] * 3 + [0.125]),
        ({"every": "8 samples", "factor": 0.5}, {"max_epochs": 1}, [1, 1, 0.5, 0.5, 0.25]),
        ({"every": "25%", "factor": 0.5}, {"budget": "8 steps"}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ({"every": "33%", "factor": 0.5}, {"max_epochs": 1}, [1, 1, 0.5, 0.25, 0.25]),  # 1.65, 3.3, 4.95 steps
        ({"every": "2 steps", "warmup": "3 steps"}, {"max_epochs": 1}, [0.25, 0.5, 0.075, 0.1, 0.01]),
        ({"every": "1 epoch", "factor": 2}, {"max_epochs": 2}, [1] * 5 + [2] * 5),
        ({"every": "2 steps", "factor": 1}, {"max_epochs": 1}, [1] * 5),
        ({"every": "2 steps"}, {"max_epochs": 1, "accumulate_grad_batches": 3}, [1, 1, 0.1, 0.1, 0.01]),
    ],
)
def test_step(options: dict[str, Any], flags: dict[str, Any], expected: list[float]) -> None:
    assert rates(partial(step, **options), **flags) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (partial(step, every="1 epoch", factor=0.5), [1] * 5 + [0.5] * 3 + [0.25] * 2 + [0.125]),
        (partial(step, every="2 epochs", factor=0.5), [1] * 8 + [0.5] * 3),
        (partial(step, every="30 samples", factor=0.5), [1] * 7 + [0.5] * 3 + [0.25]),  # 4 * 5 + 8 + 2 of 8
        (partial(multistep, at=["1 epoch", "3 epochs"], factor=0.5), [1] * 5 + [0.5] * 5 + [0.25]),
        (partial(multistep, at=["50%"], factor=0.5), [1] * 6 + [0.5] * 5),  # 5.5 steps
        (partial(cosine, warmup="1 epoch"), [i / 6 for i in range(1, 6)] + half_cosine(6)),
        (
            partial(wsd, warmup="1 epoch", decay="3 steps", shape="linear"),
            [i / 6 for i in range(1, 6)] + [1, 1, 1, 2 / 3, 1 / 3, 0],
        ),
    ],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_growing_batch(scheduler: Any, expected: list[float], accumulation: int) -> None:
    found = rates(scheduler, data=Data(**GROWING), max_epochs=4, accumulate_grad_batches=accumulation)
    assert found == pytest.approx(expected)


def test_step_without_an_end() -> None:
    """A budget in time has none; epochs and samples are counted all the same."""
    endless = Plan.make(20, BatchSchedule(4), budgets=[Duration.parse("1 min")])
    schedule = step(rate := optimizer(), endless, every="2 epochs", factor=0.5)
    found = []
    for _ in range(30):
        found.append(schedule.get_last_lr()[0])
        rate.step()
        schedule.step()
    assert found == [1.0] * 10 + [0.5] * 10 + [0.25] * 10


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 60),
    batch_size=st.integers(1, 60),
    growth=st.sampled_from([1, 2, 3]),
    value=st.integers(1, 40),
    unit=st.sampled_from(["steps", "epochs", "samples", "%"]),
)
def test_step_falls_where_the_plan_says(num_samples: int, batch_size: int, growth: int, value: int, unit: str) -> None:
    """At plan.steps(n * every), each counted from the start."""
    schedule = BatchSchedule(min(batch_size, num_samples), factor=growth, maximum=num_samples)
    planned = Plan.make(num_samples, schedule, budgets=[Duration.parse("6 epochs")])
    assert planned.total_steps is not None
    most = 100 // value if unit == "%" else 6 * num_samples
    ends = [planned.steps(f"{n * value} {unit}") for n in range(1, most + 1)]
    factor = step(optimizer(), planned, every=f"{value} {unit}", factor=0.5).lr_lambdas[0]
    for now in range(planned.total_steps):
        assert factor(now) == 0.5 ** sum(end <= now for end in ends)


@pytest.mark.parametrize(
    ("options", "flags", "expected"),
    [
        ({}, {"budget": "8 steps"}, [1] * 4 + [0.1] * 2 + [0.01] * 2),
        ({"at": ["2 steps", "1 epoch"], "factor": 0.5}, {"budget": "6 steps"}, [1, 1, 0.5, 0.5, 0.5, 0.25]),
        ({"at": ["12 samples"], "factor": 3}, {"max_epochs": 1}, [1, 1, 1, 3, 3]),
        ({"at": ["9 epochs"]}, {"max_epochs": 1}, [1] * 5),  # a shorter run is no mistake
        ({"at": ["50%", "75%"], "factor": 0.5}, {"budget": "1 step"}, [1]),  # both after step 1
        ({"at": ["3 steps"], "warmup": "1 step"}, {"max_epochs": 1}, [0.5, 1, 1, 0.1, 0.1]),
        ({"at": ["0 steps"]}, {"max_epochs": 1}, [0.1] * 5),
    ],
)
def test_multistep(options: dict[str, Any], flags: dict[str, Any], expected: list[float]) -> None:
    assert rates(partial(multistep, **options), **flags) == pytest.approx(expected)


# ---- falling at the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "budget", "expected"),
    [
        ({"decay": "2 steps", "shape": "linear"}, "5 steps", [1, 1, 1, 0.5, 0]),
        ({"decay": "4 steps", "shape": "sqrt"}, "6 steps", [1, 1, 0.5, 1 - sqrt(0.5), 1 - sqrt(0.75), 0]),
        ({"decay": "4 steps", "shape": "cosine"}, "6 steps", [1, 1, 0.8535534, 0.5, 0.1464466, 0]),
        ({"decay": "2 steps", "shape": "linear", "final": 0.2}, "5 steps", [1, 1, 1, 0.6, 0.2]),
        ({"decay": "40%", "shape": "linear", "warmup": "2 steps"}, "5 steps", [1 / 3, 2 / 3, 1, 0.5, 0]),
        ({"decay": "3 steps", "shape": "linear", "warmup": "2 steps"}, "5 steps", [1 / 3, 2 / 3, 2 / 3, 1 / 3, 0]),
        ({"decay": "1 epoch", "shape": "linear"}, "2 epochs", [1] * 5 + [0.8, 0.6, 0.4, 0.2, 0]),
        ({"decay": "0 steps"}, "3 steps", [1, 1, 1]),
        ({"decay": "100%", "shape": "linear"}, "4 steps", [0.75, 0.5, 0.25, 0]),
        ({}, "10 steps", [1] * 8 + [1 - sqrt(0.5), 0]),
        ({}, "1 step", [1]),  # a fifth of it is none
        ({"decay": "80%"}, "1 step", [1]),
        ({"decay": "1 step", "final": 0.2}, "1 step", [1]),
        # 1.5 and 1.5 steps, 2.5 and 2.5: both rounded up
        ({"warmup": "50%", "decay": "50%", "shape": "linear"}, "3 steps", [1 / 3, 2 / 3, 0]),
        ({"warmup": "50%", "decay": "50%", "shape": "linear"}, "5 steps", [0.25, 0.5, 0.75, 0.5, 0]),
    ],
)
def test_wsd(options: dict[str, Any], budget: str, expected: list[float]) -> None:
    assert rates(partial(wsd, **options), budget=budget) == pytest.approx(expected, abs=1e-7)


def torch_one_cycle(total_steps: int, **options: Any) -> list[float]:
    alone, expected = optimizer(), []
    cycle = torch.optim.lr_scheduler.OneCycleLR(alone, 0.5, total_steps=total_steps, cycle_momentum=False, **options)
    for _ in range(total_steps):
        expected.append(cycle.get_last_lr()[0])
        alone.step()
        cycle.step()
    return expected


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"pct_start": 0.3}),
        ({"warmup": "25%", "div_factor": 10, "final_div_factor": 100},
         {"pct_start": 0.25, "div_factor": 10, "final_div_factor": 100}),
        ({"warmup": "0%"}, {"pct_start": 0.0}),
        ({"warmup": "99.9%"}, {"pct_start": 0.999}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("total_steps", [1, 2, 3, 7, 15, 300])
def test_onecycle_is_that_of_torch(ours: dict[str, Any], theirs: dict[str, Any], total_steps: int) -> None:
    """Step for step, the peak between two steps or on one."""
    schedule = onecycle(rate := optimizer(0.5), plan(f"{total_steps} steps"), **ours)
    found = []
    for _ in range(total_steps):
        found.append(schedule.get_last_lr()[0])
        rate.step()
        schedule.step()
    assert found == pytest.approx(torch_one_cycle(total_steps, **theirs), rel=1e-9, abs=1e-15)


def test_onecycle_in_a_training() -> None:
    assert rates(onecycle, lr=0.5, max_epochs=3) == pytest.approx(torch_one_cycle(15))
    assert rates(onecycle, lr=0.5, max_epochs=2) == pytest.approx(torch_one_cycle(10))
    by_steps = rates(partial(onecycle, warmup="6 steps"), lr=0.5, max_epochs=2)
    assert by_steps == pytest.approx(torch_one_cycle(10, pct_start=0.6))
    assert by_steps[5] == 0.5
    # A first step at the very peak, where torch divides by zero.
    assert rates(partial(onecycle, warmup="1 step"), max_epochs=1)[0] == 1


# ---- falling on a plateau ---------------------------------------------------------------------------------------


def judged(
    values: list[float], per_epoch: int = 1, steps: int = 5, batches: Plan | None = None, **options: Any
) -> list[float]:
    """The factor after each validation, so many in an epoch of 5 steps."""
    schedule = Plateau(rate := optimizer(), batches or plan("100 epochs"), **options)
    found, done = [], 0
    for i, value in enumerate(values):
        until = (i + 1) * steps // per_epoch
        for _ in range(until - done):
            rate.step()
            schedule.step()
        done = until
        schedule.judge({"val/loss": torch.tensor(value), "val/acc": 0.5})
        assert schedule.get_last_lr() == [rate.param_groups[0]["lr"]]
        found.append(rate.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        # Better at 1 and 2; not at 3 and 4: two epochs, times a half; again two, again.
        ({"patience": "2 epochs"}, [5, 4, 4, 4, 4, 4, 3], [1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": "1 epoch"}, [5, 5, 5, 4, 5], [1, 0.5, 0.25, 0.25, 0.125]),
        ({"patience": "10 steps"}, [5, 5, 5, 5, 5], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": "11 steps"}, [5, 5, 5, 5, 5], [1, 1, 1, 0.5, 0.5]),
        ({"patience": "40 samples"}, [5, 5, 5, 5, 5], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": "2%"}, [5, 5, 5, 5, 5], [1, 1, 0.5, 0.5, 0.25]),  # of 500 steps
        ({"patience": "1 epoch", "final": 0.4}, [5, 5, 5, 5], [1, 0.5, 0.4, 0.4]),
        # An improvement by less than a tenth is none; it is measured from the best, not from the last.
        ({"patience": "2 epochs", "threshold": 0.1}, [10, 9.5, 9.2, 8.9, 8.5], [1, 1, 0.5, 0.5, 0.5]),
        ({"patience": "1 epoch", "threshold": 0}, [5, 4.999999, 4.999999], [1, 1, 0.5]),
        # A fall of 10 % of -5 is needed here too: -5.4 is no improvement, -5.6 is.
        ({"patience": "1 epoch", "threshold": 0.1}, [-5, -5.4, -5.6], [1, 0.5, 0.5]),
        ({"patience": "1 epoch", "mode": "max"}, [1, 2, 3, 3, 1], [1, 1, 1, 0.5, 0.25]),
        ({"patience": "1 epoch"}, [float("nan"), 5, float("nan"), 4], [0.5, 0.5, 0.25, 0.25]),
        ({"patience": "2 epochs", "monitor": "val/acc"}, [1, 1, 1, 1], [1, 1, 0.5, 0.5]),
        # Nothing is expected before the end of the warm-up: 2 epochs from step 10 on.
        ({"patience": "2 epochs", "warmup": "2 epochs"}, [5, 6, 6, 6, 6], [6 / 11, 1, 1, 0.5, 0.5]),
        # What is not finite is no improvement, first or later, and what follows is measured without it.
        ({"patience": "1 epoch"}, [inf, 3, 2, 1], [0.5, 0.5, 0.5, 0.5]),
        ({"patience": "1 epoch"}, [-inf, 3, 2, 1], [0.5, 0.5, 0.5, 0.5]),
        ({"patience": "1 epoch"}, [3, -inf, 2, nan, 1], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": "1 epoch", "mode": "max"}, [1, inf, 2], [1, 0.5, 0.5]),
    ],
)
def test_plateau(options: dict[str, Any], values: list[float], expected: list[float]) -> None:
    assert judged(values, **{"factor": 0.5, **options}) == pytest.approx(expected)


def test_plateau_within_epochs() -> None:
    """Two validations an epoch, after 2 and 5 steps: what counts is how long ago, not how often."""
    values = [5.0, 5, 5, 5, 5, 5]  # best at step 2; one epoch later is step 7, the third validation
    assert judged(values, per_epoch=2, patience="1 epoch", factor=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert judged(values, per_epoch=2, patience="3 steps", factor=0.5) == [1, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_plateau_while_the_batch_grows() -> None:
    """An epoch is an epoch, of 5, 3, 2 or 1 steps."""
    growing = Plan.make(20, BatchSchedule(4, factor=2, maximum=20), budgets=[Duration.parse("9 epochs")])
    schedule = Plateau(rate := optimizer(), growing, patience="2 epochs", factor=0.5)
    found = []
    for epoch in growing.per_epoch:
        for _ in range(epoch.steps):
            rate.step()
            schedule.step()
        schedule.judge({"val/loss": 1.0})
        found.append(schedule.factor)
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(0.1, 10), min_size=1, max_size=30),
    patience=st.integers(0, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_plateau_is_that_of_torch(values: list[float], patience: int, mode: str) -> None:
    """Theirs puts up with so many validations, and reduces at the next."""
    alone = optimizer()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(alone, mode=mode, factor=0.5, patience=patience)  # pyright: ignore
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(alone.param_groups[0]["lr"])
    expected = [rate if rate > 1e-6 else pytest.approx(rate) for rate in expected]
    assert judged(values, mode=mode, factor=0.5, patience=f"{patience + 1} epochs") == expected


class Bumpy(Regressor):
    """Its monitored loss goes up and down by a rule."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", 2.0 - (self.trainer.global_step % 7) / 10)


def bumpy(scheduler: Any, kind: type[Regressor] = Bumpy, dropout: float = 0.2, **flags: Any) -> tuple[Any, Any]:
    model = kind(
        network=jobs.network(dropout), optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), scheduler=scheduler
    )
    return jobs.fit(model=model, data=jobs.Data(batch_size=32), **{"max_epochs": 4, **flags})


class Saves(Callback):
    """Writes a checkpoint in every hook that a validation and a step have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: Any, hook: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step:02}-{hook}.ckpt")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._save(trainer, "step")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._save(trainer, "validation-start")

    def on_validation_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._save(trainer, "validation-epoch-end")

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self._save(trainer, "validation-end")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self._save(trainer, "epoch")


PATIENT = partial(Plateau, patience="4 steps", factor=0.5, warmup="2 steps")


@pytest.mark.slow
def test_plateau_goes_on_from_every_checkpoint(tmp_path: Path) -> None:
    """Two validations in an epoch of 5 steps, sanity checks before; a judgement is neither lost nor done twice."""
    flags: dict[str, Any] = {"val_check_interval": 2, "max_epochs": 4, "num_sanity_val_steps": 2}
    save = ModelCheckpoint(tmp_path, "{step}-best", monitor="val/loss", save_top_k=-1)
    seen = Rates()
    callbacks = [Saves(tmp_path), save, seen]
    model, run = bumpy(PATIENT, callbacks=callbacks, enable_checkpointing=True, **flags)
    assert len({round(rate, 9) for rate in seen.rates}) >= 5, seen.rates  # 2 of warm-up, and reductions
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) > 40
    different = []
    for path in paths:
        (kept,) = torch.load(path, weights_only=True)["lr_schedulers"]
        assert not {"patience", "monitor"} & set(kept)
        again, rerun = bumpy(PATIENT, checkpoint=str(path), **flags)
        state, whole = (r.lr_scheduler_configs[0].scheduler.state_dict() for r in (rerun, run))
        if state != whole or not torch.equal(jobs.weights(again), jobs.weights(model)):
            different.append(path.name)
    assert not different, f"{len(different)} of {len(paths)}"


def test_plateau_in_a_training() -> None:
    """Judged once at each validation: at 5, 10, 15, ... steps the loss is 1.5, 1.7, 1.9, 1.4, 1.6, 1.8, 2.0, 1.5."""
    found = []
    for accumulation in (1, 3):
        seen = Rates()
        bumpy(
            partial(Plateau, patience="2 epochs", factor=0.5), callbacks=[seen], max_epochs=9,
            accumulate_grad_batches=accumulation, num_sanity_val_steps=2,
        )  # fmt: skip
        found.append(seen.rates)
    # Best after epoch 1; two epochs later, after epoch 3, the first reduction; best after epoch 4; after 6 and 8 more.
    assert found[0] == pytest.approx([0.1] * 15 + [0.05] * 15 + [0.025] * 10 + [0.0125] * 5)
    assert found[0] == found[1]


def test_plateau_on_two_devices(tmp_path: Path) -> None:
    """Each has its share of the validation data, and both judge by all of them."""
    schedules = []
    layouts: list[dict[str, Any]] = [{}, {"devices": 2, "strategy": "ddp_fork"}]
    for flags in layouts:
        folder = tmp_path / str(len(flags))
        save = ModelCheckpoint(folder, "end")
        patient = partial(Plateau, patience="1 epoch", factor=0.5, threshold=0.05)
        bumpy(patient, kind=Regressor, dropout=0.0, callbacks=[save], enable_checkpointing=True, max_epochs=8, **flags)
        schedules += torch.load(folder / "end.ckpt", weights_only=True)["lr_schedulers"]
    one, two = schedules
    assert one["factor"] == two["factor"] <= 0.25
    assert (one["since"], one["judged"]) == (two["since"], two["judged"]) == (one["since"], 40)
    assert one["best"] == pytest.approx(two["best"], rel=1e-6)


def test_plateau_twice_at_one_step_counts_once() -> None:
    schedule = Plateau(optimizer(), plan("4 epochs"), patience="0 steps", factor=0.5)
    schedule.judge({"val/loss": 1.0})
    assert (schedule.best, schedule.factor) == (1.0, 1.0)
    schedule.judge({"val/loss": 2.0})
    assert (schedule.best, schedule.factor) == (1.0, 1.0)


class Forgets(Bumpy):
    def on_validation_epoch_end(self) -> None:
        self.log("val/f1", 1.0)


class Remembers(Bumpy):
    def on_validation_epoch_end(self) -> None:
        self.log("val/f1", float(self.trainer.global_step))
        super().on_validation_epoch_end()


def test_plateau_of_a_metric_that_a_subclass_logs() -> None:
    _, run = bumpy(partial(Plateau, monitor="val/f1", mode="min", patience="1 epoch", factor=0.5), kind=Remembers)
    assert run.lr_scheduler_configs[0].scheduler.factor == 0.125
    _, run = bumpy(partial(Plateau, patience="1 epoch", factor=0.5), kind=Forgets)
    assert run.lr_scheduler_configs[0].scheduler.judged == 20  # by the Trainer
    make: Any = partial(Plateau, patience="5 steps")
    model = Forgets(network=jobs.network(), optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=make)
    stock = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    loader: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(jobs.X, jobs.Y), batch_size=32)
    with pytest.raises(
        InputError, match=r"Forgets.on_validation_epoch_end must call super\(\).on_validation_epoch_end"
    ):
        stock.fit(model, loader, loader)


@pytest.mark.parametrize(
    ("scheduler", "flags", "message"),
    [
        (partial(Plateau, monitor="val/f1"), {}, "scheduler.monitor=val/f1 is not logged; there is: train/loss, "),
        (
            Plateau,
            {"limit_val_batches": 0},
            "scheduler=plateau looks at a metric at each validation, and there is none",
        ),
        (torch.optim.lr_scheduler.ReduceLROnPlateau, {}, "use scheduler=plateau, where it is a duration"),
    ],
)
def test_plateau_without_its_metric(scheduler: Any, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        bumpy(scheduler, **flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_plateau_without_validation_data() -> None:
    with pytest.raises(InputError, match="scheduler=plateau looks at a metric at each validation, and there is none"):
        rates(Plateau, max_epochs=1)


class Fresh(Bumpy):
    """Never again as good as before its first step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", float(self.trainer.global_step))


def test_a_sanity_check_is_not_judged() -> None:
    _, run = bumpy(PATIENT, kind=Fresh, num_sanity_val_steps=2)
    assert run.lr_scheduler_configs[0].scheduler.best == 5  # after the first epoch


def test_a_validation_on_its_own_is_not_judged() -> None:
    model, run = bumpy(PATIENT, max_epochs=-1, max_steps=3)
    run.lr_scheduler_configs[0].scheduler.judged = -1  # as if this step were not
    before = run.lr_scheduler_configs[0].scheduler.state_dict()
    run.validate(model, datamodule=jobs.Data(batch_size=32), verbose=False)
    assert run.lr_scheduler_configs[0].scheduler.state_dict() == before


# ---- what they refuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (step, {"every": "0 epochs"}, "scheduler.every=0 epochs is no time at all; give for example"),
        (step, {"every": "1 min"}, "`1 min` is not known in steps; write epochs, steps, samples or %"),
        (step, {"every": "5"}, "`5` has no unit; add one"),
        (step, {"factor": 0}, "scheduler.factor=0 is not a number above 0"),
        (step, {"factor": -0.1}, "scheduler.factor=-0.1 is not a number above 0"),
        (step, {"factor": "half"}, "scheduler.factor='half' is not a number above 0"),
        (step, {"factor": True}, "scheduler.factor=True is not a number above 0"),
        (step, {"factor": float("nan")}, "scheduler.factor=nan is not a number above 0"),
        (step, {"warmup": "10 steps"}, "scheduler.warmup=10 steps is 10 steps, and the run has 10; make it shorter"),
        (constant, {"warmup": "3 epochs"}, "scheduler.warmup=3 epochs is 15 steps, and the run has 10; make it"),
        (multistep, {"at": "50%"}, "scheduler.at='50%' is not a list of durations"),
        (multistep, {"at": None}, "scheduler.at=None is not a list of durations"),
        (multistep, {"at": ["75%", "50%"]}, "scheduler.at=[75%,50%] does not rise"),
        (multistep, {"at": ["1 epoch", "1 epoch"]}, "scheduler.at=[1 epoch,1 epoch] does not rise"),
        (multistep, {"at": ["1 epoch", "3 steps"]}, "scheduler.at=[1 epoch,3 steps] does not rise"),
        (multistep, {"at": [30, 60]}, "`30` has no unit; add one"),
        (multistep, {"at": []}, "scheduler.at=[] has no time; write for example scheduler.at=[50%,75%]"),
        (step, {"every": "1 step", "factor": 1e200}, "scheduler.factor=1e+200 makes the rate infinite after 10 times"),
        (multistep, {"factor": 1e200}, "scheduler.factor=1e+200 makes the rate infinite after 2 times"),
        (multistep, {"factor": 0}, "scheduler.factor=0 is not a number above 0"),
        (wsd, {"warmup": "50%", "decay": "60%"}, "are 5 + 6 steps, and the run has 10; make them shorter"),
        (wsd, {"warmup": "5 steps", "decay": "55%"}, "are 5 + 6 steps, and the run has 10; make them shorter"),
        (wsd, {"shape": "round"}, "scheduler.shape=round is not known; there are: linear, sqrt, cosine"),
        (wsd, {"final": 2}, "scheduler.final=2 is not a factor from 0 to 1"),
        (onecycle, {"warmup": "100%"}, "scheduler.warmup=100% is 10 steps, and the run has 10; make it shorter"),
        (onecycle, {"div_factor": 0}, "scheduler.div_factor=0 is not a number above 0"),
        (onecycle, {"div_factor": 1e-320}, "scheduler.div_factor=1e-320 makes the rate infinite"),
        (onecycle, {"final_div_factor": 1e-310}, "scheduler.final_div_factor=1e-310 makes the rate infinite"),
        (onecycle, {"div_factor": 1e-200, "final_div_factor": 1e-200}, "scheduler.final_div_factor=1e-200 makes"),
        (onecycle, {"final_div_factor": -1}, "scheduler.final_div_factor=-1 is not a number above 0"),
        (Plateau, {"patience": "5"}, "`5` has no unit; add one"),
        (Plateau, {"patience": "1 min"}, "`1 min` is not known in steps"),
        (Plateau, {"factor": 1}, "scheduler.factor=1 is not a factor between 0 and 1"),
        (Plateau, {"mode": "least"}, "scheduler.mode=least is neither min nor max"),
        (Plateau, {"monitor": None}, "scheduler.monitor=None is not the name of a metric"),
        (Plateau, {"threshold": -1}, "scheduler.threshold=-1 is not a part of the best value"),
        (Plateau, {"final": -1}, "scheduler.final=-1 is not a factor from 0 to 1"),
    ],
)
def test_what_they_refuse(scheduler: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        scheduler(optimizer(), plan("2 epochs"), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_factor_that_is_too_much_in_time() -> None:
    """Without an end it is known only when it is there; the optimizer's rate counts too."""
    endless = Plan.make(20, BatchSchedule(4), budgets=[Duration.parse("1 min")])
    schedule = step(rate := optimizer(1e100), endless, every="1 step", factor=1e100)
    rate.step()
    schedule.step()
    assert schedule.get_last_lr() == [1e200]
    rate.step()
    schedule.step()
    with pytest.raises(InputError, match=r"scheduler\.factor=1e\+100 makes the rate infinite after 3 times"):
        schedule.step()


@pytest.mark.parametrize("scheduler", [cosine, onecycle, wsd])
def test_some_need_an_end(scheduler: Any) -> None:
    endless = Plan.make(20, BatchSchedule(4), budgets=[Duration.parse("1 min")])
    with pytest.raises(
        InputError, match=f"scheduler={scheduler.__name__} must know the end; give the budget in epochs"
    ):
        scheduler(optimizer(), endless)
    nothing = Plan.make(20, BatchSchedule(4), limit_train_batches=0, budgets=[Duration.parse("1 epoch")])
    with pytest.raises(InputError, match="the training has no step"):
        scheduler(optimizer(), nothing)


@pytest.mark.parametrize("scheduler", [constant, cosine, onecycle, wsd, step, multistep, Plateau])
def test_all_scale_every_group_and_stay_at_the_end(scheduler: Any) -> None:
    """Groups of different rates keep their ratio."""
    groups = [{"params": [nn.Parameter(torch.zeros(()))], "lr": rate} for rate in (1.0, 0.25)]
    rate = torch.optim.SGD(groups)
    schedule, found = scheduler(rate, plan("2 epochs"), warmup="20%"), []
    for _ in range(14):
        found.append(schedule.get_last_lr())
        rate.step()
        schedule.step()
    assert all(isclose(a, 4 * b) for a, b in found)
    assert all(a == b for a, b in pairwise(found[9:]))
    assert found[0] != found[1]


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
