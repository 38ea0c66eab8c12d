"""The checkpoints of a run: the best, and the last."""

import logging
import time
from ast import literal_eval
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from metronome.training.checkpoints.files import NotWritten
from metronome.training.checkpoints.monitored import settle
from metronome.units import Duration, InputError

log = logging.getLogger("metronome.training")

# What a save changes. A save that fails has changed none of it.
_BOOKS = ("best_k_models", "kth_best_model_path", "kth_value", "best_model_path", "best_model_score", "current_score",
          "last_model_path", "_last_global_step_saved", "_last_checkpoint_saved", "_defer_save_until_validation",
          "_last_time_checked")  # fmt: skip
# What a checkpoint keeps of the best ones, where there are none yet.
_NO_BEST = {"best_k_models": {}, "kth_best_model_path": "", "best_model_path": "", "best_model_score": None,
            "current_score": None}  # fmt: skip


class Checkpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, made to be resumed from.

    - It saves when a step's values are logged, or a validation or epoch is over; what is left to do there is kept too.
    - The last step is saved after every validation (Lightning: only where the best ones have changed), and at the end.
    - Told to stop by a signal, a run saves its last step.
    - `save_last_every` saves the last step in between too, however long an epoch is.
    - A save that fails (a full disk) leaves the checkpoints, and the knowledge of them, as they were; the training goes
      on, and saves the next time. Only where nothing comes after it the run fails.
    - The best ones are known again after a resume, also where the folder was moved.
    - Whether the least or the greatest value of `monitor` is the best is worked out, where `mode` does not say it.

    Args:
        mode: min or max; None: as the torchmetric that is monitored says, or its name.
        save_last_every: a Duration in steps, epochs, samples or time (`10 min`); None: only with the others.
        save_last_after_validation: whether the last step is saved after every validation; without, where validations
            are many and cheap, only as often as `save_last_every` says, and at the end.
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
        self._saved_at = (time.monotonic(), trainer.global_step)
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
            self.save_last_now(trainer)

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
        self._or_as_before(lambda: self.save_last_now(trainer))

    def save_last_now(self, trainer: L.Trainer) -> None:
        """Write last.ckpt, if it is wanted and a step has been made. Raises NotWritten if it cannot be."""
        if self.save_last and not trainer.fast_dev_run and trainer.global_step:  # pyright: ignore
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._last_global_step_saved != trainer.global_step or not self._last_checkpoint_saved:
            self.save_last_now(trainer)

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
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
            super()._save_checkpoint(trainer, filepath)
        except BaseException:
            self._last_global_step_saved = before
            raise
        finally:
            self.seconds_saving += time.monotonic() - began
        if filepath == self.last_model_path:
            self._saved_at = (time.monotonic(), trainer.global_step)

    def _or_as_before(self, save: Callable[[], None]) -> None:
        books = {name: _kept(getattr(self, name)) for name in _BOOKS}
        try:
            save()
        except NotWritten as error:
            vars(self).update(books)
            # Not asked again before the next step's time has come.
            self._saved_at = (time.monotonic(), self._saved_at[1])
            log.warning("%s; the training goes on, and saves the next time", error)

    # ---- what is kept of it ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "last_step_saved": self._last_global_step_saved,
            "last_checkpoint_saved": self._last_checkpoint_saved,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, here = state_dict.get("dirpath"), self.dirpath
        if before is not None and here is not None and before != here:
            state_dict = _moved(state_dict, Path(before), Path(here))
        super().load_state_dict(state_dict)
        self.current_score = state_dict.get("current_score")
        self._last_global_step_saved = state_dict.get("last_step_saved", 0)
        self._last_checkpoint_saved = state_dict.get("last_checkpoint_saved", "")


def hand_over(states: dict[str, Any], callbacks: Iterable[Any]) -> None:
    """What a checkpoint has of a `Checkpoint` with other options goes to the one that has taken its place: the
    last checkpoint, and the best, unless it was the best by another metric, or the worst; then it counts anew.

    Args:
        states: of the checkpoint's callbacks; changed.
        callbacks: those of the training that goes on.
    """
    all_ours = [callback for callback in callbacks if type(callback) is Checkpoint]
    known = {callback.state_key for callback in all_ours}
    ours = [callback for callback in all_ours if callback.state_key not in states]
    theirs = [key for key in states if str(key).startswith(f"{Checkpoint.__name__}{{") and key not in known]
    if len(ours) != 1 or len(theirs) != 1:
        return  # none has changed, or which is which cannot be told
    here, there = (_best_by(key) for key in (ours[0].state_key, theirs[0]))
    state = states.pop(theirs[0])
    states[ours[0].state_key] = state if here == there else state | _NO_BEST | {"kth_value": ours[0].kth_value}
    if here != there:
        log.warning("the best counts anew: by %s, before by %s", here, there)


def _best_by(state_key: str) -> str:
    options = literal_eval(state_key.removeprefix(Checkpoint.__name__))
    if options["monitor"] is None:
        return "no metric"
    return f"the {'highest' if options['mode'] == 'max' else 'lowest'} {options['monitor']}"


def _kept(value: Any) -> Any:
    # This is asked for after each step, and only a dict is changed in place.
    return dict(value) if isinstance(value, dict) else value


def _moved(state: dict[str, Any], before: Path, here: Path) -> dict[str, Any]:
    """The same books where the best ones now lie in another folder; as they were where they do not."""

    def moved(path: str) -> str:
        inside = path and Path(path).is_relative_to(before)
        return str(here / Path(path).relative_to(before)) if inside else path

    best = {moved(path): score for path, score in state["best_k_models"].items()}
    if not all(Path(path).is_file() for path in best):
        # A new run goes on from another, whose best stays where it is: Lightning removes none outside of its folder.
        is_there = best and all(Path(path).is_file() for path in state["best_k_models"])
        return state | {"dirpath": str(here), "last_model_path": ""} if is_there else state
    names = ("best_model_path", "kth_best_model_path", "last_model_path", "last_checkpoint_saved")
    return state | {name: moved(state.get(name, "")) for name in names} | {"dirpath": str(here), "best_k_models": best}
