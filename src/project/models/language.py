"""A LightningModule of one's own: a language model, whose loss is a mean over tokens."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class LanguageModel(L.LightningModule):
    """Predicts the next token; losses are means over the tokens that have a label, in nats.

    A batch is `{"input_ids", "labels"}`, both int64 of shape (samples, length); a label of -100 does not count.

    Args:
        network: maps tokens (samples, length) to logits (samples, length, num_tokens).
        optimizer: called with the parameters.
        scheduler: called with the optimizer and the run's plan, as those of `metronome.models.schedulers` are.
    """

    def __init__(
        self, network: nn.Module, optimizer: Callable[..., Optimizer], scheduler: Callable[..., LRScheduler]
    ) -> None:
        super().__init__()
        self.network, self.make_optimizer, self.make_scheduler = network, optimizer, scheduler

    def loss_weight(self, batch: dict[str, Tensor]) -> Tensor:
        """What the mean in `loss` divides by. With it a step is the same however its batch is cut."""
        return (batch["labels"] != -100).sum()

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.network(batch["input_ids"])
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), prog_bar=True)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        scheduler = self.make_scheduler(optimizer, plan=self.trainer.plan)  # pyright: ignore
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- how fast it is: tokens over all devices, from the start of an epoch to the end of its last step ------------

    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # which is not called for an epoch that goes on

    def on_train_epoch_start(self) -> None:
        self.began, self.ended, self.num_tokens = monotonic(), 0.0, 0

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        # The batch is all that this device took in the step. A tensor on a GPU stays there: reading it would wait.
        self.num_tokens, self.ended = self.num_tokens + self.loss_weight(batch), monotonic()

    def on_train_epoch_end(self) -> None:
        if self.ended:
            rate = self.num_tokens / (self.ended - self.began)
            self.log("train/tokens_per_second", rate, reduce_fx="sum", sync_dist=True)
