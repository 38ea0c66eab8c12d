"""Runs with one fault each, what is to be said of them first, and what following the flags has to improve."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """Attributes:
    name: of the fault.
    command: what is added to `+experiment=minibatch`: digits, one hidden layer of 128, SGD.
    symptom: what the advice that comes first begins with, or one of these where a fault shows itself in several ways;
        nothing of a healthy run, which is to get none.
    outcome: what is to get smaller, in words; and measured, of a run, given the faulty one.
    """

    name: str
    command: tuple[str, ...]
    symptom: str | tuple[str, ...]
    outcome: str
    measured: Callable[[Result, Result], float]


def last_loss(run: Result, faulty: Result) -> float:
    return float(run["metrics"]["val/loss"])


def train_seconds(run: Result, faulty: Result) -> float:
    return float(run["seconds"]["train"])


def until(unit: str) -> Callable[[Result, Result], float]:
    """Steps or samples until the validation loss is no higher than the faulty run's at its end; infinite if never."""

    def counted(run: Result, faulty: Result) -> float:
        history, target = run["watched"]["history"], last_loss(faulty, faulty)
        reached = [count for count, val in zip(history[unit], history["val"], strict=True)
                   if val is not None and val <= target * (1 + 1e-5)]  # fmt: skip
        return float(min(reached, default=float("inf")))

    return counted


FAULTS = (
    Fault("batch too small", ("data.batch_size=2", "optimizer.lr=0.00625", "trainer.max_epochs=8"),
          "the batch is far below the noise scale", "steps to the same loss", until("step")),
    Fault("batch too large", ("data.batch_size=full", "optimizer.lr=0.8", "trainer.max_epochs=60",
                              "trainer.check_val_every_n_epoch=10"),
          "the batch is far above the noise scale", "samples to the same loss", until("samples")),
    Fault("rate too small", ("optimizer.lr=0.002",),
          "the learning rate is far too small", "validation loss", last_loss),
    Fault("rate too large", ("optimizer.lr=1.5",),
          ("the loss oscillates", "the loss jumped away"), "validation loss", last_loss),
    Fault("too few epochs", ("optimizer.lr=0.3", "trainer.max_epochs=3"),
          "the loss is still falling at the end", "validation loss", last_loss),
    Fault("too many epochs", ("data.num_train=150", "optimizer=adam", "optimizer.lr=0.003", "trainer.max_epochs=150"),
          "over-fitting", "validation loss", last_loss),
    Fault("slow loader", ("data=slow_digits", "scheduler=cosine", "optimizer.lr=0.3", "trainer.max_epochs=6"),
          "steps wait for data", "seconds of training", train_seconds),
    Fault("tiny network", ("model.network.hidden=[2]", "trainer.max_epochs=40", "scheduler=cosine"),
          "under-fitting", "validation loss", last_loss),
    Fault("healthy", ("scheduler=cosine", "optimizer.lr=0.3"), "", "", last_loss),
)  # fmt: skip
