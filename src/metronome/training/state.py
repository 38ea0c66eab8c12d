"""What the parts of a training share, in one object that is handed to each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from metronome.units.mixtures.counts import CountsOfMixture
from metronome.units.mixtures.mix import Mix


@dataclass
class Counters:
    """Epochs begun, iterations on this device, and samples over all devices, since the first step of the run.

    Steps are not among them: Lightning's `trainer.global_step` counts every `optimizer.step()`.
    Kept in checkpoints, so that a resumed run goes on counting.
    """

    epochs: int = 0
    iterations: int = 0
    samples: int = 0
    samples_resumed: int = field(default=0, compare=False)  # those that were there when the run was resumed
    mixture: CountsOfMixture | None = None  # where the data are one

    @property
    def by_set(self) -> dict[str, dict[str, float]]:
        """Of each set of a mixture the samples so far, and the times that it was gone through; else nothing."""
        return {} if self.mixture is None else self.mixture.in_words(self.samples)

    def begin_epoch(self, mix: Mix | None, epoch: int, steps_taken: int) -> None:
        """An epoch begins, or goes on after so many steps."""
        if steps_taken == 0:
            self.epochs += 1
        if mix is not None:
            self.mixture = CountsOfMixture.begun(self.mixture, mix, epoch, self.samples, steps_taken)

    def state_dict(self) -> dict[str, Any]:
        sets = {} if self.mixture is None else {"mixture": self.mixture.state_dict()}
        return {"epochs": self.epochs, "iterations": self.iterations, "samples": self.samples} | sets

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs, self.iterations, self.samples = state["epochs"], state["iterations"], state["samples"]
        self.samples_resumed = self.samples
        self.mixture = CountsOfMixture.of_state(state["mixture"]) if "mixture" in state else None


@dataclass
class TrainingState:
    """A training's seed, its place, its accumulation, what it has counted, and what happened to it.

    Attributes:
        seed: from it, the epoch and the step follow the order of the samples and every random number.
        follows_seed_everything: whether it is that of the last `seed_everything`.
        is_under_way: whether the stage that was asked for runs; before it, Lightning's finders try batches and rates.
        accumulate: micro-batches into which each device cuts its share of a batch of the first epoch.
        auto_accumulate: whether `accumulate` grows where memory is short.
        epoch, step: the step being made: the epoch, and the step within it, both from 0.
        counters: what has been done so far.
        out_of_memory: what was cut finer for want of memory, and in which step.
        nonfinite: the steps whose loss or gradient was not finite.
    """

    seed: int = 0
    accumulate: int = 1
    auto_accumulate: bool = False
    follows_seed_everything: bool = False
    is_under_way: bool = False
    epoch: int = 0
    step: int = 0
    counters: Counters = field(default_factory=Counters)
    out_of_memory: list[dict[str, Any]] = field(default_factory=list)
    nonfinite: list[dict[str, Any]] = field(default_factory=list)

    @property
    def may_be_cut(self) -> bool:
        """Whether a batch is, or may come to be, cut into micro-batches on each device."""
        return self.accumulate > 1 or self.auto_accumulate

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While it lasts, what runs is the stage that was asked for."""
        self.is_under_way = True
        try:
            yield
        finally:
            self.is_under_way = False

    def state_dict(self) -> dict[str, Any]:
        return {
            "counters": self.counters.state_dict(),
            "accumulate_grad_batches": self.accumulate,
            "out_of_memory": list(self.out_of_memory),
            "nonfinite": list(self.nonfinite),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counters.load_state_dict(state["counters"])
        self.out_of_memory, self.nonfinite = state["out_of_memory"], state["nonfinite"]
        if self.auto_accumulate:
            self.accumulate = state["accumulate_grad_batches"]
