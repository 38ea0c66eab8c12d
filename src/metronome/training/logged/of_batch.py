"""The value of a torchmetric in a step: of the whole batch, and no mean of what it is in each micro-batch.

An F1 score, say, is no mean over samples. So beside each torchmetric that is logged at each step of a batch that is cut
up there is a twin, which is given what the metric is given, sees nothing but one batch, and is joined over the devices.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy
from torchmetrics.utilities import dim_zero_sum

from metronome.training.logged.metrics import modules_of, plain_copy, state_names
from metronome.training.precise import most_precise

log = logging.getLogger("metronome.training")

_MEANS = (MeanMetric, MeanSquaredError, MeanAbsoluteError, BinaryAccuracy)


class _Hook:
    """Notes what a metric was called with last. A copy of the module has none of it: it would hold the training too."""

    def __init__(self, calls: dict[int, Any] | None = None) -> None:
        self.calls = {} if calls is None else calls

    def __call__(self, metric: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self.calls[id(metric)] = arguments, named, output

    def __deepcopy__(self, memo: Any) -> "_Hook":
        return _Hook()

    def __reduce__(self) -> Any:
        return _Hook, ()


class BatchMetrics:
    """The torchmetrics of a module, as they are in the batch of one step."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._calls: dict[int, Any] = {}  # by the metric's id: what it was called with last in this micro-batch
        self._twins: dict[str, Metric | None] = {}  # by the key that the metric is logged under: one may have two
        self.hooks: list[Any] = []  # one on each of its torchmetrics
        self._have_twins = set[int]()  # ids of metrics
        self._is_fed = False
        self.is_on = False  # whether this step's batch is cut up
        # What is logged as a number in the first micro-batch, by name; None where that is over.
        self.numbers: dict[str, Tensor] | None = None

    def begin_step(self, module: nn.Module) -> None:
        """A batch that is cut up, over micro-batches or devices, begins. Where one is not, `is_on` is false."""
        if module is not self._module:
            self.forget()
            self._module = module
            metrics = [part for part in modules_of(module) if isinstance(part, Metric)]
            hook: Any = _Hook(self._calls)
            self.hooks = [metric.register_forward_hook(hook, with_kwargs=True) for metric in metrics]
            self.numbers = {} if metrics else None
        if self._is_fed:  # by a step that is made again
            self._is_fed = False
            for twin in self._twins.values():
                if twin is not None:
                    twin.reset()

    def end_micro_batch(self) -> None:
        """Or the next one begins."""
        if self.numbers:
            self._say_which_are_means(self.numbers)
            self.numbers = None
        self._calls.clear()

    def forget(self) -> None:
        """The training is over: the metrics are as they were."""
        for hook in self.hooks:
            hook.remove()
        self._module, self.hooks, self._twins, self.numbers = None, [], {}, None
        self._have_twins.clear()
        self._calls.clear()

    def saw(self, key: str, metric: Metric, counts: bool) -> bool:
        """Give its twin what a metric was called with. False where its value in the step is to be a mean.

        Args:
            key, metric: one that is being logged.
            counts: whether the micro-batch does; one that only keeps other devices company does not.
        """
        arguments, named, _ = self._calls.get(id(metric), ((), {}, None))
        if not self.is_on or not (arguments or named):
            return False
        if isinstance(metric, MeanMetric) and len(arguments) == 1 and not named and _is_number(arguments[0]):
            return False  # of a loss, say, which weighs as much as the micro-batch does
        if key not in self._twins:
            self._twins[key] = self._twin(metric)
            self._have_twins.add(id(metric))
        twin = self._twins[key]
        if twin is not None and counts:
            self._is_fed = True
            twin.update(*arguments, **named)
        return twin is not None

    def _say_which_are_means(self, numbers: Mapping[str, Tensor]) -> None:
        for part in modules_of(self._module) if self._module is not None else ():
            if not isinstance(part, Metric) or id(part) in self._have_twins or _is_mean(part):
                continue
            _, _, output = self._calls.get(id(part), (0, 0, None))
            outputs = [*(output.values() if isinstance(output, dict) else (output,)), part._computed]
            given = [given for given in outputs if isinstance(given, Tensor)]
            for name, value in numbers.items():
                if any(value.shape == g.shape and torch.equal(value, g.detach().to(value)) for g in given):
                    log.warning(
                        "%r is logged as the number that a %s has given: it is a mean of its values in the "
                        "micro-batches, and may differ from that of the whole batch; log the metric itself: "
                        "self.log(%r, metric)", name, type(part).__name__, name,
                    )  # fmt: skip

    def value(self, key: str, over_devices: bool) -> Tensor | None:
        """Of the whole batch; of this device's share of it, if not `over_devices`, for which all devices must call it
        together. None where nothing was seen, or it is no tensor."""
        twin = self._twins[key]
        assert twin is not None
        parts: list[Any] = [part for part in modules_of(twin) if isinstance(part, Metric)]
        if over_devices and not _join(parts):
            return None
        if not any(part._update_count for part in parts):
            return None
        value = twin.compute()
        twin.reset()
        return value.detach() if isinstance(value, Tensor) else None

    def _twin(self, metric: Metric) -> Metric | None:
        memo: dict[int, Any] = {}  # what the metric has seen is not copied: it may be much, and have a graph
        for part in modules_of(metric):
            if isinstance(part, Metric):
                memo[id(part.process_group)] = part.process_group
                names = [*state_names(part), "_forward_cache", "_computed"]
                for value in (getattr(part, name, None) for name in names):
                    if isinstance(value, Tensor):
                        memo[id(value)] = value.detach().clone()
                    elif isinstance(value, list):
                        memo[id(value)] = []
        try:
            twin = copy.deepcopy(metric, memo)
        except Exception as error:  # whatever somebody's metric holds on to
            log.warning(
                "values of %s at each step are means of its values in the micro-batches, and may differ from that of "
                "the whole batch, since it cannot be copied (%s); its epoch value does not: self.log(..., "
                "on_step=False, on_epoch=True)", type(metric).__name__, error,
            )  # fmt: skip
            return None
        for part in modules_of(twin):
            if isinstance(part, Metric):
                part._forward_hooks.clear()
                part.sync_on_compute = part._to_sync = part.dist_sync_on_step = False  # joined here
                part._enable_grad, part._should_unsync = False, True
        twin.reset()
        return twin


def _is_mean(metric: Any) -> bool:
    """Over samples, so that the mean of its values is its value."""
    if isinstance(metric, MulticlassAccuracy):
        return metric.average == "micro" and metric.ignore_index is None
    is_root = isinstance(metric, MeanSquaredError) and not metric.squared
    return isinstance(metric, _MEANS) and not is_root


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim == 0


def _join(parts: list[Any]) -> bool:
    """Give these metrics what those of all devices have seen; whether any has seen something."""
    group = parts[0].process_group
    tensors = [getattr(part, name) for part in parts for name in part._defaults]
    reductions = [part._reductions[name] for part in parts for name in part._defaults]
    if tensors and all(isinstance(t, Tensor) for t in tensors) and all(r is dim_zero_sum for r in reductions):
        # One sum, which a GPU is not waited for.
        dtype = most_precise(tensors[0].device)
        table = torch.cat([tensor.detach().reshape(-1).to(dtype) for tensor in tensors])
        distributed.all_reduce(table, group=group)
        pieces = iter(table.split([tensor.numel() for tensor in tensors]))
        for part in parts:
            part._update_count = max(1, part._update_count)
            for name in part._defaults:
                tensor = getattr(part, name)
                setattr(part, name, next(pieces).reshape(tensor.shape).to(tensor.dtype))
        return True
    mine = [(part._update_count, {name: plain_copy(getattr(part, name)) for name in part._defaults}) for part in parts]
    devices: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(devices, mine, group=group)
    devices = [device for device in devices if any(count for count, _ in device)]
    for i, part in enumerate(parts):
        part._update_count = sum(device[i][0] for device in devices)
        for name in part._defaults if devices else ():
            values = [device[i][1][name] for device in devices]
            if isinstance(values[0], list):
                joined: Any = [item.to(part.device) for value in values for item in value]
            else:  # as torchmetrics does
                joined, reduction = torch.stack([value.to(part.device) for value in values]), part._reductions[name]
                joined = reduction(joined) if reduction is not None else joined
            setattr(part, name, joined)
    return bool(devices)
