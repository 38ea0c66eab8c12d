"""What `self.log` means when one step runs several micro-batches on several devices.

Lightning keeps the value of the last micro-batch of one device. Here a value logged in `training_step` is that of the
whole batch: the micro-batches' values averaged with their samples as weights (or summed, or the largest or smallest,
as `reduce_fx` says), over all devices. Epoch values weigh every sample the same, over all devices too, in training
and in evaluation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from metronome.training.lightning_private import ResultCollectionBase, ResultMetricBase
from metronome.training.logged.meeting import meet
from metronome.training.logged.of_batch import BatchMetrics
from metronome.training.logged.reducing import Part, Reducer, Sent
from metronome.training.place import data_devices


class Logged(ResultMetricBase):
    """A logged value, moved only where it has to be.

    At each `self.log` Lightning moves a value to the device that it is on, by a walk over all that is known of it: a
    third of the time of a small step.
    """

    def to(self, *args: Any, **kwargs: Any) -> "Logged":
        if len(args) == 1 and not kwargs and self.is_on(args[0]):
            return self
        return super().to(*args, **kwargs)  # pyright: ignore

    def is_on(self, device: Any) -> bool:
        value = getattr(self, "value", None)
        held = [value, self.cumulated_batch_size] if self.is_tensor and self.meta.is_mean_reduction else [value]
        return all(getattr(part, "device", None) == device for part in held)


class Results(ResultCollectionBase):
    """Lightning's collection of logged values, exact over micro-batches and devices."""

    def __init__(self, trainer: L.Trainer, training: bool) -> None:
        super().__init__(training)
        self.trainer, self.devices = trainer, data_devices(trainer)
        self._in_step = False
        self._parts = 0
        self._counted = True
        # per key: what the micro-batches of this step logged, as (reduced value, weight)
        self._step_values: dict[str, tuple[Tensor, int | Tensor]] = {}
        self._reducer = Reducer(trainer)
        self._of_batch = BatchMetrics()
        self._metrics: dict[str, Any] = {}  # per key: torchmetrics logged in this step, computed over the batch
        self._sent: Sent | None = None  # the step's values, on their way between the devices
        self._options: dict[str, dict[str, Any]] = {}  # with which each key was logged last

    # ---- a step, micro-batch by micro-batch ------------------------------------------------------

    def begin_batch(self, connector: Any, batch: Any) -> None:
        """What Lightning's connector does when a batch is there, without asking it whose results these are."""
        connector._first_loop_iter = connector._first_loop_iter is None
        self.batch, self.batch_size, self.dataloader_idx = batch, None, None

    def end_batch(self) -> None:
        """What it does at its end, but for looking at the values: they are there for whoever asks."""
        self.batch = self.batch_size = None

    def keep_latest(self, connector: Any) -> None:
        """Make the values of the last step the latest ones of the trainer, before they are reset, or saved."""
        if connector._first_loop_iter is not None:
            metrics = self.metrics(on_step=True)
            connector._progress_bar_metrics.update(metrics["pbar"])
            connector._callback_metrics.update(metrics["callback"])
            connector._logged_metrics.update(metrics["log"])

    def begin_step(self, is_cut: bool) -> None:
        """`is_cut`: over micro-batches or devices."""
        self.arrive()
        self._in_step, self._parts, self._step_values = True, 0, {}
        self._of_batch.is_on = is_cut
        if is_cut:
            self._metrics = {}
            self._of_batch.begin_step(self.trainer.lightning_module)

    def begin_micro_batch(self, micro_batch: Any, weight: Any, counted: bool) -> None:
        """`counted` is false for a sample that only keeps other devices company: what it logs does not count."""
        self.batch, self.batch_size, self._counted = micro_batch, weight, counted
        if self._parts and self._of_batch.hooks:
            self._of_batch.end_micro_batch()
        self._parts += 1

    @property
    def is_counting(self) -> bool:
        return self._counted

    def count_again(self, counts: bool) -> None:
        """From here on what is logged counts, or does not, as before the step."""
        self._counted = counts

    def end_step(self, share: Any, weight: Any, over_devices: bool = True) -> None:
        """Make the step's values those of the whole batch (of this device's share, if not `over_devices`, for which all
        devices must call it together).

        What hooks log from here on is of this device's whole share, and weighs as much.
        """
        self._in_step = False
        self.batch, self.batch_size = share, weight
        if self._of_batch.hooks:
            self._of_batch.end_micro_batch()
        if over_devices:
            self._counted = True
        if over_devices and self.devices > 1:
            # They travel while the update is made, and are waited for where somebody asks; else until the next step.
            parts = {key: self._part(key, *part) for key, part in self._step_values.items()}
            shared = {key: part for key, part in parts.items() if not self[key].meta.sync.rank_zero_only}
            self._sent = self._reducer.send(shared) if shared else None
        elif self._parts == 1:
            return  # Lightning has kept the values of the one micro-batch as they are
        for key, (value, weight) in self._step_values.items():
            self[key]._forward_cache = value / weight if self[key].meta.is_mean_reduction else value
        if self._metrics:
            self._compute_metrics(over_devices and self.devices > 1)

    def _compute_metrics(self, over_devices: bool) -> None:
        """Of the whole batch, in place of means."""
        if over_devices:
            self.arrive()  # so that all are known to have logged the same
        for key in sorted(self._metrics):
            is_shared = over_devices and not self[key].meta.sync.rank_zero_only
            value = self._of_batch.value(key, is_shared)
            if value is not None:
                self[key]._forward_cache = value

    def arrive(self) -> None:
        """Make the values that are on their way between the devices those of the step. Raises as `Reducer.received`."""
        if self._sent is None:
            return
        sent, self._sent = self._sent, None
        for key, value in self._reducer.received(sent).items():
            self[key]._forward_cache = value

    def forget_metrics(self) -> None:
        """The training or evaluation is over: a module's torchmetrics are as they were before."""
        self._of_batch.forget()

    def forget_step(self) -> None:
        """Let go of the values that are on their way between the devices: their step does not count."""
        if self._sent is not None:
            self._sent.wait()
            self._sent = None

    @contextmanager
    def nothing_counted(self) -> Iterator[None]:
        """While it lasts, what is logged registers its names and nothing else."""
        self._counted = False
        try:
            yield
        finally:
            self._counted = True

    # ---- what Lightning calls -----------------------------------------------------------------------

    def __setitem__(self, key: str, metric: ResultMetricBase) -> None:
        if type(metric) is ResultMetricBase:
            metric.__class__ = Logged  # Lightning makes it by name
        super().__setitem__(key, metric)

    def reset(self, metrics: bool | None = None, fx: str | None = None) -> None:
        # In an epoch's first batch Lightning resets a hook's values when another hook has logged before it. All were
        # reset when the last epoch ended; the hooks of a step take turns, one micro-batch after the other.
        if fx is None or not self._in_step:
            super().reset(metrics, fx)

    def log(  # pyright: ignore
        self,
        fx: str,
        name: str,
        value: Any,
        *,
        sync_dist: bool = False,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        key = f"{fx}.{name}"
        if self._in_step and self._options.get(key) == options and type(value) is Tensor:
            # As in the step before: Lightning would describe the value anew, to compare it with what it was.
            metric = self.get(key)
            if isinstance(metric, Logged) and metric.is_on(value.device):
                value = value if options["enable_graph"] else value.detach()
                size = self.batch_size if batch_size is None else batch_size
                assert size is not None
                self.update_metrics(key, value, size)
                return
        # Lightning would reduce over devices by a mean of means; all reductions are made here instead.
        super().log(fx, name, value, sync_dist=False, batch_size=batch_size, **options)  # pyright: ignore
        self._options[key] = options
        if sync_dist and not self._in_step and self.devices > 1:
            metric = self.get(f"{fx}.{name}")
            if metric is not None and metric.is_tensor and metric.meta.on_step and self.training:
                cache = metric._forward_cache
                assert cache is not None
                metric._forward_cache = self._reducer.reduce(cache.clone(), metric.meta.reduce_fx.__name__)

    def update_metrics(self, key: str, value: Any, batch_size: int) -> None:
        metric = self[key]
        # The mean over nothing is no number; it counts nothing.
        is_empty = metric.is_tensor and not isinstance(batch_size, Tensor) and batch_size == 0
        if isinstance(batch_size, Tensor) and metric.is_tensor and metric.meta.is_mean_reduction:
            counts: Any = batch_size > 0
            value = torch.where(counts, value, 0.0)  # which is not looked at, since a GPU would be waited for
        if self._counted and not is_empty:
            if torch.compiler.is_compiling():
                super().update_metrics(key, value, batch_size)  # pyright: ignore
            else:  # the same, without a way around the compiler
                metric.forward(value, batch_size)
                metric.has_reset = False
            step_value = metric._forward_cache
        else:
            metric.has_reset = False
            if not metric.is_tensor:
                metric.value = value  # a torchmetrics.Metric is reduced over devices at the end of the epoch
            # The other devices log this key too, and reduce it together with this one.
            has_value = metric.is_tensor or isinstance(value._forward_cache, Tensor)
            step_value, batch_size = torch.as_tensor(_neutral(metric)) if has_value else None, 0
        if not (self._in_step and metric.meta.on_step and isinstance(step_value, Tensor)):
            return
        if metric.is_tensor:
            if self._of_batch.numbers is not None:
                self._of_batch.numbers[metric.meta.name] = value
        elif self._of_batch.saw(key, value, self._counted):
            self._metrics[key] = value
        meta = metric.meta
        if meta.is_mean_reduction:
            step_value = step_value * batch_size
        weight: int | Tensor = batch_size
        if key in self._step_values:
            before, weight_before = self._step_values[key]
            combine = meta.reduce_fx if meta.is_min_reduction or meta.is_max_reduction else torch.add
            step_value, weight = combine(before, step_value), weight_before + weight
        self._step_values[key] = step_value, weight

    def metrics(self, on_step: bool) -> Any:
        if self.devices > 1:
            self.arrive()
            if not on_step:
                self.share_epoch_values()
        # As Lightning's, but for one thing: values for a progress bar stay tensors until one is drawn. Lightning
        # turns them into numbers after each step, and a GPU is waited for each time.
        log, callback, pbar = {}, {}, {}
        for _, metric in self.valid_items():
            value = self._get_cache(metric, on_step)
            if not isinstance(value, Tensor):
                continue
            name, forked_name = self._forked_name(metric, on_step)
            if metric.meta.logger:
                log[forked_name] = value
            if self.training or (metric.meta.on_epoch and not on_step):
                callback[name] = callback[forked_name] = value
            if metric.meta.prog_bar:
                pbar[forked_name] = value
        return {"callback": callback, "log": log, "pbar": pbar}

    # ---- over devices -----------------------------------------------------------------------------------

    def share_epoch_values(self, at_a_meeting: bool = False) -> None:
        """Bring the epoch's values together, unless they are. All devices must call it together.

        Args:
            at_a_meeting: whether all devices are known to be here, so that one that has logged what the others have not
                can be told: where it asks for its values, it would wait for them for ever.

        Raises:
            InputError: if the devices have logged different values.
        """
        if self.devices == 1:
            return
        due: dict[str, Part] = {}
        for key, metric in self.valid_items():
            mine = metric.meta.on_epoch and metric._computed is None and metric.is_tensor
            if mine and not metric.meta.sync.rank_zero_only:
                weight = metric.cumulated_batch_size if metric.meta.is_mean_reduction else 0
                due[key] = self._part(key, torch.as_tensor(metric.value), weight)
        if due or at_a_meeting:
            meet(self.trainer.world_size, due)
            for key, value in self._reducer.received(self._reducer.send(due)).items():
                self[key]._computed = value

    def _part(self, key: str, value: Tensor, weight: int | Tensor) -> Part:
        return Part(value, weight, self[key].meta.reduce_fx.__name__)


def _neutral(metric: ResultMetricBase) -> float:
    """The value that changes no reduction."""
    if metric.meta.is_max_reduction:
        return float("-inf")
    return float("inf") if metric.meta.is_min_reduction else 0.0
