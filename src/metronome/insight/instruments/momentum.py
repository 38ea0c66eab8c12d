"""The momentum of each parameter group."""

from typing import Any

import lightning as L

from metronome.insight.instruments.log_points import GROUP, Instrument, StaysApart, groups_of, log_scalars


class Momentum(StaysApart, Instrument):
    """Logs `watch/momentum`, which some schedulers change: SGD's momentum, of Adam and its kind the first beta.

    Parameter groups that part are logged as `watch/momentum/0`, `/1`, ..., counted over all optimizers. Of optimizers
    without momentum there is none.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Read before the update: after it the scheduler has already set the next step's.
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self.is_due:
            return
        momenta = [m for group in groups_of(trainer) if (m := _momentum(group)) is not None]
        if any(momenta) or self.are_apart:
            log_scalars(trainer, self.named(f"{GROUP}/momentum", momenta))


def _momentum(group: dict[str, Any]) -> float | None:
    if "betas" in group:
        return float(group["betas"][0])
    return float(group["momentum"]) if "momentum" in group else None
