"""Many small trainings in one: what noise does on average, from a single run."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Walkers(L.LightningModule):
    """Independent walkers on one landscape: each has its own weights, and noise of its own in its gradient.

    The loss of a sample is, for each walker, the height of the landscape where it stands, plus its noise times its
    weights; so its gradient is the landscape's plus noise, and that of a batch of B samples the landscape's plus noise
    with a B-th of the variance. The gradients of all walkers are those of the sum of their losses, which
    `training_step` returns; what is logged are means over walkers.

    Args:
        start: weights of each walker before the first step, of shape (num_walkers, num_weights).
        noise: standard deviation of the noise of one sample, of shape (num_weights,).
        optimizer: called with the parameters.
        scheduler: called with the optimizer and the run's plan, as those of `metronome.models.schedulers` are.
    """

    noise: Tensor

    def __init__(
        self,
        start: Tensor,
        noise: Tensor,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
    ) -> None:
        super().__init__()
        self.weights = nn.Parameter(start)
        self.register_buffer("noise", noise, persistent=False)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def heights(self, weights: Tensor) -> Tensor:
        """The landscape: weights of shape (num_walkers, num_weights) to heights of shape (num_walkers,)."""
        raise NotImplementedError

    def found(self) -> dict[str, Tensor]:
        """What is to be known of the walkers as they stand, each a scalar; `loss` is one of them."""
        return {"loss": self.heights(self.weights).mean()}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        push = batch.mean(0) * self.noise
        return (self.heights(self.weights) + (push * self.weights).sum(1)).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        for name, value in self.found().items():
            self.log(f"val/{name}", value, prog_bar=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        for name, value in self.found().items():
            self.log(f"test/{name}", value)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        scheduler = self.make_scheduler(optimizer, plan=self.trainer.plan)  # pyright: ignore
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
