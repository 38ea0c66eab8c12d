"""What the studies show, in small: each statement's direction comes out on real digits.

320 digits to train a network of 64-32-10, two seeds. What is compared differs by several times what seeds do. Most
take seconds, and run with `-m slow`.
"""

from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from math import ceil
from statistics import fmean, stdev
from typing import Any

import jobs
import pytest
import torch
from torch import nn

from metronome.models import Classifier, schedulers
from metronome.units import scaled_rate
from project.data import Digits
from project.models import mlp

SEEDS = (0, 1)
NUM_TRAIN = 320
OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "rprop": torch.optim.Rprop}


@dataclass
class Trained:
    """What a training came to: losses are those of the final weights over a whole split, in evaluation mode."""

    train_loss: float
    val_loss: float
    test_acc: float
    steps: int
    iterations: int
    step_losses: list[float]
    val_losses: list[float]


class Watched(Classifier):
    def on_train_start(self) -> None:
        self.step_losses: list[float] = []
        self.val_losses: list[float] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step_losses.append(float(outputs["loss"]))

    def on_validation_epoch_end(self) -> None:
        self.val_losses.append(float(self.trainer.callback_metrics["val/loss"]))


@cache
def trained(
    seed: int,
    batch_size: int | str = 32,
    optimizer: str = "sgd",
    lr: float = 0.1,
    budget: str = "10 epochs",
    growth: int | None = None,
    decay: float | None = None,
    num_train: int = NUM_TRAIN,
    accumulation: int = 1,
    **options: Any,
) -> Trained:
    torch.manual_seed(seed)
    every = "2 epochs"
    scheduler = None if decay is None else partial(schedulers.step, every=every, factor=decay)
    make = partial(OPTIMIZERS[optimizer], lr=lr, **options)
    model = Watched(network=mlp(64, 10, hidden=(32,)), num_classes=10, optimizer=make, scheduler=scheduler)
    data = Digits(
        num_train=num_train,
        batch_size=batch_size,
        batch_growth=None if growth is None else {"factor": growth, "every": every},
    )
    model, run = jobs.fit(
        model=model, data=data, seed=seed, budget=budget, max_epochs=None, accumulate_grad_batches=accumulation
    )
    (train, _), (val, _), (_, test) = (evaluated(model, split) for split in data.splits)
    counted = run.counters.iterations
    return Trained(train, val, test, run.global_step, counted, model.step_losses, model.val_losses)


def evaluated(model: nn.Module, split: Any) -> tuple[float, float]:
    """Loss and accuracy over a split."""
    images, labels = split.columns
    model.eval()
    with torch.no_grad():
        logits = model(images)
    return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


def over_seeds(**options: Any) -> list[Trained]:
    return [trained(seed, **options) for seed in SEEDS]


def all_below(low: list[float], high: list[float]) -> bool:
    """Every seed of one below every seed of the other: no overlap at all."""
    return max(low) < min(high)


def train_losses(**options: Any) -> list[float]:
    return [run.train_loss for run in over_seeds(**options)]


def roughness(losses: list[float]) -> float:
    """Of the second half of a curve: how far neighbours are apart."""
    half = losses[len(losses) // 2 :]
    return stdev(b - a for a, b in pairwise(half))


# ---- batch size ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [8, 32, 100, "full"])
def test_a_larger_batch_makes_fewer_steps_an_epoch(batch_size: int | str) -> None:
    size = NUM_TRAIN if batch_size == "full" else int(batch_size)
    assert trained(0, batch_size=batch_size, budget="2 epochs").steps == 2 * ceil(NUM_TRAIN / size)


@pytest.mark.slow
def test_at_equal_epochs_smaller_batches_get_further() -> None:
    losses = [train_losses(batch_size=size, budget="5 epochs") for size in (8, 32, 128, "full")]
    for smaller, larger in pairwise(losses):
        assert all_below(smaller, larger)


@pytest.mark.slow
def test_at_equal_steps_larger_batches_get_further() -> None:
    """Each step is as long, and less of it is noise; above some size little is gained."""
    one, some, full = (train_losses(batch_size=size, budget="100 steps", lr=0.3) for size in (1, 16, "full"))
    assert all_below(some, one)
    assert all_below(full, one)


@pytest.mark.slow
def test_a_larger_batch_has_a_smoother_curve() -> None:
    rough = [
        [roughness(run.step_losses) for run in over_seeds(batch_size=size, budget="100 steps")]
        for size in (4, 32, "full")
    ]
    assert all_below(rough[1], rough[0])
    assert all_below(rough[2], rough[1])


@pytest.mark.slow
def test_linear_scaling_makes_up_for_a_larger_batch() -> None:
    """Batch x 4, rate x 4: the loss of the small batch, which the larger one alone does not reach."""
    small, large = train_losses(batch_size=16), train_losses(batch_size=64)
    scaled = train_losses(batch_size=64, lr=scaled_rate(0.1, "linear", 64, 16))
    assert all_below(scaled, large)
    assert abs(fmean(scaled) - fmean(small)) < 0.2 * (fmean(large) - fmean(small))


# ---- regimes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_gradient_descent_mini_batches_and_single_samples_at_equal_epochs() -> None:
    gd, mini, sgd = (train_losses(batch_size=size, budget="2 epochs") for size in ("full", 32, 1))
    assert all_below(sgd, mini)
    assert all_below(mini, gd)


@pytest.mark.slow
def test_rprop_beats_gradient_descent_at_equal_epochs() -> None:
    rprop = train_losses(batch_size="full", optimizer="rprop", lr=0.01, budget="30 epochs")
    for lr in (0.1, 0.5, 1.0):
        assert all_below(rprop, train_losses(batch_size="full", lr=lr, budget="30 epochs"))


@pytest.mark.slow
def test_rprop_does_not_work_with_mini_batches() -> None:
    """More steps, and a higher loss: signs of single gradients do not average out."""
    full = train_losses(batch_size="full", optimizer="rprop", lr=0.01, budget="30 epochs")
    mini = train_losses(batch_size=16, optimizer="rprop", lr=0.01, budget="15 epochs")
    assert all_below(full, mini)


# ---- momentum -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_momentum_is_faster_at_the_same_rate() -> None:
    losses = [train_losses(lr=0.01, momentum=momentum) for momentum in (0.0, 0.5, 0.9)]
    assert all_below(losses[1], losses[0])
    assert all_below(losses[2], losses[1])


# ---- the batch instead of the rate --------------------------------------------------------------------------------


@pytest.mark.slow
def test_growing_the_batch_does_what_decaying_the_rate_does() -> None:
    """Smith et al. (2018): the same loss, in fewer steps."""
    decay = over_seeds(decay=0.5, lr=0.3, batch_size=16)
    growth = over_seeds(growth=2, lr=0.3, batch_size=16)
    assert [run.steps for run in decay] == [10 * 20] * 2
    assert [run.steps for run in growth] == [2 * (20 + 10 + 5 + 3 + 2)] * 2
    theirs, ours = ([run.train_loss for run in runs] for runs in (decay, growth))
    assert fmean(ours) == pytest.approx(fmean(theirs), rel=0.1)
    without = train_losses(lr=0.3, batch_size=16)
    assert all_below(without, theirs)  # which is not what either of them is for: see conf/study/README.md
    assert all_below(without, ours)


# ---- epochs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_under_fitting_to_over_fitting() -> None:
    """On 50 samples the training loss keeps falling, and the validation loss has its least before the end."""
    for run in over_seeds(num_train=50, batch_size=10, momentum=0.9, lr=0.1, budget="40 epochs"):
        best = min(run.val_losses)
        epoch = run.val_losses.index(best)
        assert 2 < epoch < 30
        assert run.val_losses[0] > 2 * best  # under-fitting
        assert run.val_losses[-1] > 1.05 * best  # over-fitting
        assert run.train_loss < 0.1 * best


# ---- accumulation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_accumulation_changes_nothing_but_the_iterations(pieces: int) -> None:
    whole, cut = (trained(0, accumulation=k, budget="3 epochs") for k in (1, pieces))
    assert cut.step_losses == pytest.approx(whole.step_losses, rel=1e-5)
    assert (cut.steps, cut.iterations) == (whole.steps, pieces * whole.iterations)
