"""The checkpoints of a run: the best, and the last."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import proxy

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from metronome.training.checkpoints.background import Beside, Group, Lost
from metronome.training.checkpoints.books import BOOKS, kept, moved
from metronome.training.checkpoints.copies import Memory
from metronome.training.checkpoints.files import NotWritten, reason_not_written
from metronome.training.checkpoints.monitored import settle
from metronome.units import Duration, InputError

log = logging.getLogger("metronome.training")

_GOES_ON = "%s; the training goes on, and saves the next time"


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, made to be resumed from.

    - It saves when a step's values are logged, or a validation or epoch is over; what is left to do there is kept too.
    - The last step is saved after every validation (Lightning: only where the best ones have changed), and at the end.
    - Told to stop by a signal, a run saves its last step.
    - `save_last_every` saves the last step in between too, however long an epoch is.
    - A save that fails (a full disk) leaves the checkpoints, and the knowledge of them, as they were; the training goes
      on, and saves the next time. Only where nothing comes after it the run fails.
    - In the background, a save holds the training up only as long as it takes to copy what is saved; the rest a thread
      does. At most one moment's checkpoints are on their way: the next ones wait for them, as does the end of a fit.
    - The best ones are known again after a resume, also where the folder was moved.
    - Whether the least or the greatest value of `monitor` is the best is worked out, where `mode` does not say it.

    Args:
        mode: min or max; None: as the torchmetric that is monitored says, or its name.
        save_last_every: a Duration in steps, epochs, samples or time (`10 min`); None: only with the others.
        save_last_after_validation: whether the last step is saved after every validation; without, where validations
            are many and cheap, only as often as `save_last_every` says, and at the end.
        background: whether checkpoints are written while the training goes on; main memory must hold what is in one
            once more.
        options: those of ModelCheckpoint.

    Raises:
        InputError: for an interval that is none, or an option that Lightning would take as it comes; when a fit begins,
            for a metric of which nothing tells the mode.
    """

    def __init__(
        self,
        *args: Any,
        mode: str | None = None,
        save_last_every: str | Duration | None = None,
        save_last_after_validation: bool = True,
        background: bool = False,
        **options: Any,
    ) -> None:
        for name, value in (
            ("save_top_k", options.get("save_top_k", 1)),
            ("every_n_epochs", options.get("every_n_epochs")),
        ):
            if value is not None and not isinstance(value, int):
                raise InputError(f"{name}={value!r} is not a whole number")
        super().__init__(*args, **options, **({} if mode is None else {"mode": mode}))
        self.open_mode = "mode" if mode is None else None
        if self.save_last not in (None, True, False, "link"):
            raise InputError(f"save_last={self.save_last!r} is neither true nor false, nor link")
        try:
            self.format_checkpoint_name({})
        except (ValueError, KeyError, IndexError) as error:
            raise InputError(f"filename={self.filename!r} is no name such as best or '{{epoch}}': {error}") from error
        self.every = None if save_last_every is None else Duration.parse(save_last_every)
        if self.every is not None and (self.every.unit == "percent" or self.every.value <= 0 or not self.save_last):
            raise InputError(
                f"save_last_every={save_last_every} must be steps, epochs, samples or time, above 0 and beside "
                "save_last=true; for example '10 min', or null"
            )
        if not isinstance(background, bool) or (background and self.save_last == "link"):
            raise InputError(f"background={background} is true or false, and true beside save_last=true or false only")
        self.beside = Beside(background)
        self.save_last_after_validation = save_last_after_validation
        self.seconds_saving = 0.0  # of this start
        self._after_step: list[Callable[[], None]] = []
        self._saved_at = (time.monotonic(), 0)  # when last.ckpt was last written: seconds, steps
        self._every_steps = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            settle(self, pl_module)
        super().setup(trainer, pl_module, stage)

    # ---- when ---------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at, self.beside.has_saved = (time.monotonic(), trainer.global_step), False
        if self.every is not None and self.every.unit != "seconds":
            plan = trainer.plan
            if plan is None and self.every.unit != "steps":
                raise InputError(f"save_last_every={self.every} needs data of a known length; give it in steps or time")
            self._every_steps = int(self.every.value) if plan is None else plan.steps(self.every)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        # The module's own hook is called after this one.
        self._after_step.append(lambda: super(Checkpoint, self).on_train_batch_end(trainer, *args))

    def after_step(self, trainer: L.Trainer) -> None:
        """Called when a step is done and its values are logged."""
        if self.beside.pending is not None and trainer.is_global_zero:
            self._say_failure(self.beside.pending)
        due, self._after_step = self._after_step, []
        for save in due:
            self._or_as_before(save)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        def save() -> None:
            super(Checkpoint, self).on_validation_end(trainer, pl_module)
            if not self._should_save_on_train_epoch_end(trainer):
                self._save_last_too(trainer)

        self._or_as_before(save)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        def save() -> None:
            super(Checkpoint, self).on_train_epoch_end(trainer, pl_module)
            if self._should_save_on_train_epoch_end(trainer):
                self._save_last_too(trainer)

        self._or_as_before(save)

    def _save_last_too(self, trainer: L.Trainer) -> None:
        if not self.save_last_after_validation:
            return
        # Lightning does it only where the best ones have changed.
        if not self._should_skip_saving_checkpoint(trainer) and self._saved_at[1] != trainer.global_step:
            self._save_last(trainer)

    def is_time(self, trainer: L.Trainer) -> bool:
        """Whether as much time as `save_last_every` says has gone by; each device's clock is its own."""
        every = self.every
        if every is None or every.unit != "seconds" or not self._has_news(trainer):
            return False
        return time.monotonic() - self._saved_at[0] >= every.value

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether as many steps have been made; the same on all devices."""
        return 0 < self._every_steps <= trainer.global_step - self._saved_at[1] and self._has_news(trainer)

    def _has_news(self, trainer: L.Trainer) -> bool:
        return not trainer.fast_dev_run and trainer.global_step != self._last_global_step_saved  # pyright: ignore

    def save_last_if_due(self, trainer: L.Trainer) -> None:
        self._or_as_before(lambda: self._save_last(trainer))

    def save_last_now(self, trainer: L.Trainer) -> None:
        """Write last.ckpt, if it is wanted and a step has been made; then all is on the disk. Raises NotWritten if it
        cannot be."""
        self.wait(trainer)
        self._save_last(trainer)

    def _save_last(self, trainer: L.Trainer) -> None:
        if self.save_last and not trainer.fast_dev_run and trainer.global_step:  # pyright: ignore
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.wait(trainer)
        if self._last_global_step_saved != trainer.global_step or not self._last_checkpoint_saved:
            self.save_last_now(trainer)

    def _save_last_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
        self._look_back(trainer)
        super()._save_last_checkpoint(trainer, monitor_candidates)

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
        self._look_back(trainer)
        is_there = self.monitor is None or self.monitor in monitor_candidates
        if not is_there and self.save_top_k != 0 and trainer.fit_loop.epoch_loop.val_loop._has_run:
            names = ", ".join(sorted(name for name in monitor_candidates if name not in ("epoch", "step"))) or "nothing"
            raise InputError(f"monitor={self.monitor} is not logged; there is: {names}")
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    # ---- how ------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        # Before it is written, since it is part of what is written.
        before, self._last_global_step_saved = self._last_global_step_saved, trainer.global_step
        began = time.monotonic()
        try:
            if (group := self.beside.open) is None:
                super()._save_checkpoint(trainer, filepath)
            else:
                with group.saving(filepath):
                    trainer.save_checkpoint(filepath, self.save_weights_only)
                self._last_checkpoint_saved = filepath
        except BaseException:
            self._last_global_step_saved = before
            raise
        finally:
            self.seconds_saving += time.monotonic() - began
        self.beside.has_saved = True
        if filepath == self.last_model_path:
            self._saved_at = (time.monotonic(), trainer.global_step)

    def _remove_checkpoint(self, trainer: Any, filepath: str) -> None:
        remove = super()._remove_checkpoint
        if (group := self.beside.open) is None:
            remove(trainer, filepath)
        else:
            group.remove_afterwards(lambda: remove(trainer, filepath))

    def _or_as_before(self, save: Callable[[], None]) -> None:
        books = {name: kept(getattr(self, name)) for name in (*BOOKS, "_saved_at")}
        try:
            with self.beside.moment(books):
                save()
        except Lost:
            self._or_as_before(save)  # what was judged by it is judged anew
        except NotWritten as error:
            self._put_back(books)
            log.warning(_GOES_ON, error)

    def _put_back(self, books: dict[str, Any]) -> None:
        vars(self).update(books)
        # Not asked again before the next step's time has come.
        self._saved_at = (time.monotonic(), books["_saved_at"][1])

    # ---- what is written beside it --------------------------------------------------------------------------

    def wait(self, trainer: L.Trainer) -> bool:
        """Until all that was saved is on the disk; where that has failed it is as if it had not been begun, and False.
        All devices must call it together."""
        if (group := self._ended()) is None:
            return True
        if group.error is not None and reason_not_written(group.path, group.error) is None:
            raise group.error  # a mistake, as it would be raised where it is written at once
        if trainer.is_global_zero:
            self._say_failure(group)
        if trainer.strategy.broadcast(group.error is not None):
            waits = self._defer_save_until_validation
            self._put_back(group.books)
            self._defer_save_until_validation |= waits
            return False
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(proxy(self))  # pyright: ignore
        return True

    def _look_back(self, trainer: L.Trainer) -> None:
        if not self.wait(trainer):
            raise Lost

    def _wait_alone(self) -> None:
        """The same where others may not come to it."""
        if (group := self._ended()) is not None and group.error is not None:
            self._say_failure(group)
            self._put_back(group.books)

    def _ended(self) -> Group | None:
        began = time.monotonic()
        group = self.beside.take_pending()
        self.seconds_saving += 0.0 if group is None else time.monotonic() - began
        return group

    def _say_failure(self, group: Group) -> None:
        if group.error is not None and not group.is_told:
            group.is_told = True
            log.warning(_GOES_ON, reason_not_written(group.path, group.error) or repr(group.error))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._wait_alone()
        super().on_exception(trainer, pl_module, exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._wait_alone()
        self.beside.memory = Memory()

    # ---- what is kept of it ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "last_step_saved": self._last_global_step_saved,
            "last_checkpoint_saved": self._last_checkpoint_saved,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, here = state_dict.get("dirpath"), self.dirpath
        if before is not None and here is not None and before != here:
            state_dict = moved(state_dict, Path(before), Path(here))
        super().load_state_dict(state_dict)
        self.current_score = state_dict.get("current_score")
        self._last_global_step_saved = state_dict.get("last_step_saved", 0)
        self._last_checkpoint_saved = state_dict.get("last_checkpoint_saved", "")
