"""The progress of a training as a bar of the package rich, in exact counters."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from metronome.insight.live_values import LiveValues
from metronome.training import Trainer
from metronome.units import InputError

_REDRAW_SECONDS = 0.2
_WIDTH_OF_THE_REST = 52  # columns: epoch, bar, steps and time


class RichProgress(ProgressBar):
    """One bar for the whole training: epoch and step of how many, the time left, samples a second, and the values
    logged with `prog_bar=True`; beside it one for a validation or test while it lasts. Each epoch leaves a line.

    Lightning's RichProgressBar begins anew with each epoch, and waits for the device in each step.

    Raises:
        InputError: without the package, and where the Trainer is not Metronome's.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import rich.progress  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError("callbacks=rich_progress needs the package rich: pip install -e '.[callbacks]'") from error
        self._enabled, self._is_first, self._bars = True, True, None
        self._values = LiveValues()
        self._drawn_at = 0.0
        self._epoch_ended = False  # and has no line yet

    # ---- what Lightning asks of a progress bar ------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self._is_first

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        (print if self._bars is None else self._bars.console.print)(*args, **kwargs)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(trainer, Trainer):
            raise InputError("RichProgress shows the counters of metronome.training.Trainer, and this is another")
        super().setup(trainer, pl_module, stage)
        self._is_first = trainer.is_global_zero

    # ---- a training ------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._plan, self._values = trainer.plan, LiveValues()  # the plan on every device: all may have to meet for it
        self._begin()
        if self._bars is not None:
            total = None if self._plan is None else self._plan.total_steps
            self._train = self._bars.add_task("train", total=total, completed=trainer.global_step, values="")
        self._epoch_began = monotonic(), trainer.counters.samples

    def on_train_epoch_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._leave_line(trainer)
        self._epoch_began = monotonic(), trainer.counters.samples

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        now = monotonic()
        if self._bars is not None and now - self._drawn_at >= _REDRAW_SECONDS:
            self._drawn_at = now
            self._draw(trainer, self._values.of(trainer.step_metrics), now)

    def on_validation_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._bars is not None and not trainer.sanity_checking:
            batches = trainer.num_val_batches
            total = sum(batches) if isinstance(batches, list) else batches
            self._val = self._bars.add_task("validation", total=total, values="")

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        if self._bars is not None and not trainer.sanity_checking:
            self._bars.advance(self._val)

    def on_validation_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._bars is not None and not trainer.sanity_checking:
            self._bars.remove_task(self._val)

    def on_train_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._bars is not None:
            self._draw(trainer, {}, monotonic())
        self._leave_line(trainer)
        self._end()

    def on_train_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._epoch_ended = True  # its means are there at the next hook
        self._seconds = monotonic() - self._epoch_began[0]

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end()

    # ---- a test ------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._begin(transient=True)
        if self._bars is not None:
            batches = trainer.num_test_batches
            total = sum(batches) if isinstance(batches, list) else batches
            self._val = self._bars.add_task("test", total=total, values="")

    def on_test_batch_end(self, trainer: Any, *args: Any) -> None:
        if self._bars is not None:
            self._bars.advance(self._val)

    def on_test_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self._end()

    # ---- the bars ----------------------------------------------------------------------------------------------

    def _begin(self, transient: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._end()
        if self.is_enabled:
            columns = (
                TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )  # fmt: skip
            self._bars = Progress(*columns, transient=transient)
            self._bars.start()

    def _end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _leave_line(self, trainer: Any) -> None:
        """Of the epoch that is over, above the bar."""
        if self._bars is None or not self._epoch_ended:
            return
        self._epoch_ended = False
        done = f"epoch {self._of_epochs(trainer)}  step {trainer.global_step:,}"
        self.print(f"{done}  {_text(trainer.progress_bar_metrics)}", highlight=False, soft_wrap=True)

    def _of_epochs(self, trainer: Any) -> str:
        epochs = None if self._plan is None else self._plan.epochs
        return f"{trainer.counters.epochs:,}" + ("" if epochs is None else f"/{epochs:,}")

    def _draw(self, trainer: Any, metrics: Any, now: float) -> None:
        assert self._bars is not None
        began, samples = self._epoch_began
        speed = (trainer.counters.samples - samples) / max(now - began, 1e-9)
        text, room = f"{float(f'{speed:.3g}'):,.10g}/s", self._bars.console.width - _WIDTH_OF_THE_REST
        for name, value in metrics.items():  # as many as there is room for
            longer = f"{text}  {_text({name: value})}"
            text = longer if len(longer) <= room else text
        self._bars.update(
            self._train,
            completed=trainer.global_step,
            values=text,
            description=f"epoch {self._of_epochs(trainer)} step",
        )


def _text(metrics: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
