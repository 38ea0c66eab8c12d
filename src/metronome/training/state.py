"""What a training has done so far, counted while it does it."""

from dataclasses import dataclass, field


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

    def state_dict(self) -> dict[str, int]:
        return {"epochs": self.epochs, "iterations": self.iterations, "samples": self.samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epochs, self.iterations, self.samples = state["epochs"], state["iterations"], state["samples"]
        self.samples_resumed = self.samples
