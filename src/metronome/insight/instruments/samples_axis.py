"""Curves against the samples seen, beside those against steps."""

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from metronome.insight.instruments.log_points import Instrument, read
from metronome.training import Trainer

# By its name the first group that TensorBoard shows, and so the losses are on its first screen.
SAMPLES_GROUP = "by_samples"


class SamplesAxis(Instrument):
    """Logs metrics a second time, in the group `by_samples`, with the samples seen so far in the place of the step.

    There a loss has its name turned round, `by_samples/loss/train` and `by_samples/loss/val`, so that both stand before
    `by_samples/val/acc`.

    TensorBoard has no other axis than the step and the clock, on which batches of different sizes cannot be compared.
    Loggers that can choose an axis get `samples`, the samples seen, to choose it.

    Args:
        of_steps: metrics of a step, at some of the log points.
        of_validations: metrics of a validation, at each.
    """

    def __init__(
        self, of_steps: Sequence[str] = ("train/loss",), of_validations: Sequence[str] = ("val/loss", "val/acc")
    ) -> None:
        super().__init__()
        self.of_steps, self.of_validations = tuple(of_steps), tuple(of_validations)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.is_due:
            assert isinstance(trainer, Trainer)
            logged = trainer.fit_loop.epoch_loop.results.metrics(on_step=True)["log"]
            self._log(trainer, self.of_steps, logged)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and self._every:
            self._log(trainer, self.of_validations, trainer.callback_metrics)

    def _log(self, trainer: L.Trainer, wanted: Sequence[str], logged: Any) -> None:
        assert isinstance(trainer, Trainer)
        names = [name for name in wanted if name in logged]
        if not names:
            return
        values = read([logged[name] for name in names])
        samples = trainer.counters.samples
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                scalars = {_tag(name): value for name, value in zip(names, values, strict=True)}
                logger.log_metrics(scalars, step=samples)
            else:
                logger.log_metrics({"samples": float(samples)}, step=trainer.logged_step)


def _tag(name: str) -> str:
    stage, _, metric = name.partition("/")
    return f"{SAMPLES_GROUP}/loss/{stage}" if metric == "loss" else f"{SAMPLES_GROUP}/{name}"
