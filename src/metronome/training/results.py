"""What `self.log` means when one step runs several micro-batches on several devices.

Lightning keeps the value of the last micro-batch of one device. Here a value logged in `training_step` is that of the
whole batch: the micro-batches' values averaged with their samples as weights (or summed, or the largest or smallest,
as `reduce_fx` says), over all devices. Epoch values weigh every sample the same, over all devices too, in training
and in evaluation.
"""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import Tensor

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer


class Results(_ResultCollection):
    """Lightning's collection of logged values, exact over micro-batches and devices."""

    def __init__(self, trainer: "Trainer", training: bool) -> None:
        super().__init__(training)
        self.trainer = trainer
        self._in_step = False
        self._counted = True
        # per key: what the micro-batches of this step logged, as (reduced value, weight)
        self._step_values: dict[str, tuple[Tensor, int]] = {}

    # ---- a step, micro-batch by micro-batch ------------------------------------------------------

    def begin_step(self) -> None:
        self._in_step, self._step_values = True, {}

    def begin_micro_batch(self, micro_batch: Any, samples: int, counted: bool) -> None:
        """`counted` is false for a sample that only keeps other devices company: what it logs does not count."""
        self.batch, self.batch_size, self._counted = micro_batch, samples, counted

    def end_step(self) -> None:
        """Make the step's values those of the whole batch. All devices must call it together."""
        self._in_step, self._counted = False, True
        self.batch_size = None
        if self.trainer.world_size > 1:
            self._reduce_over_devices()
        for key, (value, weight) in self._step_values.items():
            self[key]._forward_cache = value / weight if self[key].meta.is_mean_reduction else value

    # ---- what Lightning calls -----------------------------------------------------------------------

    def log(self, fx: str, name: str, value: Any, *args: Any, sync_dist: bool = False, **kwargs: Any) -> None:
        # Lightning would reduce over devices by a mean of means; all reductions are made here instead.
        super().log(fx, name, value, *args, sync_dist=False, **kwargs)  # pyright: ignore
        if sync_dist and not self._in_step and self.trainer.world_size > 1:
            metric = self.get(f"{fx}.{name}")
            if metric is not None and metric.is_tensor and metric.meta.on_step and self.training:
                cache = metric._forward_cache
                assert cache is not None
                metric._forward_cache = self._reduce(cache.clone(), metric.meta.reduce_fx.__name__)

    def update_metrics(self, key: str, value: Any, batch_size: int) -> None:
        metric = self[key]
        if not self._counted:
            metric.has_reset = False
            if not metric.is_tensor:
                metric.value = value  # a torchmetrics.Metric is reduced over devices at the end of the epoch
            return
        super().update_metrics(key, value, batch_size)  # pyright: ignore
        step_value = metric._forward_cache
        if not (self._in_step and metric.meta.on_step and isinstance(step_value, Tensor)):
            return
        meta = metric.meta
        if meta.is_mean_reduction:
            step_value = step_value * batch_size
        if key in self._step_values:
            before, weight = self._step_values[key]
            combine = meta.reduce_fx if meta.is_min_reduction or meta.is_max_reduction else torch.add
            step_value, batch_size = combine(before, step_value), weight + batch_size
        self._step_values[key] = step_value, batch_size

    def _get_cache(self, result_metric: _ResultMetric, on_step: bool) -> Tensor | None:  # pyright: ignore
        epoch_value_due = not on_step and result_metric.meta.on_epoch and result_metric._computed is None
        shared = self.trainer.world_size > 1 and not result_metric.meta.sync.rank_zero_only
        if epoch_value_due and shared and result_metric.is_tensor:
            # A device that has seen no sample yet does not know the type of the others' values.
            meta, value = result_metric.meta, torch.as_tensor(result_metric.value).to(self._wide)
            computed: Any
            if meta.is_mean_reduction:
                samples = self._reduce(torch.as_tensor(result_metric.cumulated_batch_size).clone(), "sum")
                computed = self._reduce(value.clone(), "sum") / samples
            else:
                computed = self._reduce(value.clone(), meta.reduce_fx.__name__)
            result_metric._computed = computed
        return _ResultCollection._get_cache(result_metric, on_step)

    # ---- over devices -----------------------------------------------------------------------------------

    def _reduce_over_devices(self) -> None:
        """One collective for all sums and means, and one for each largest or smallest value."""
        shared = {key: value for key, value in self.items() if self._is_shared(value)}
        sums = {k: m for k, m in shared.items() if m.meta.is_mean_reduction or m.meta.is_sum_reduction}
        device, dtype = self.trainer.strategy.root_device, self._wide
        if sums:
            nothing = torch.zeros((), device=device), 0
            mine = [self._step_values.get(key, nothing) for key in sums]
            values = torch.stack([value.to(device, dtype) for value, _ in mine])
            weights = torch.tensor([weight for _, weight in mine], dtype=dtype, device=device)
            values, weights = self._reduce(torch.stack([values, weights]), "sum")
            for i, key in enumerate(sums):
                self._step_values[key] = values[i], weights[i]  # pyright: ignore
        for key, metric in shared.items():
            if key not in sums:
                worst = float("-inf") if metric.meta.is_max_reduction else float("inf")
                value, weight = self._step_values.get(key, (torch.tensor(worst), 0))
                self._step_values[key] = self._reduce(value.to(device, dtype), metric.meta.reduce_fx.__name__), weight

    def _is_shared(self, metric: _ResultMetric) -> bool:
        # Every device knows the same keys, also one whose only micro-batch did not count.
        in_step = metric.meta.fx == "training_step" and not metric.has_reset
        return in_step and metric.meta.on_step and not metric.meta.sync.rank_zero_only

    @property
    def _wide(self) -> torch.dtype:
        return torch.float32 if self.trainer.strategy.root_device.type == "mps" else torch.float64  # MPS has no more

    def _reduce(self, value: Tensor, operation: str) -> Tensor:
        """Over devices, in place; `operation` is sum, mean, max or min. All devices must call it together."""
        reduced = self.trainer.strategy.reduce(value.to(self.trainer.strategy.root_device), reduce_op=operation)
        assert isinstance(reduced, Tensor)
        return reduced
