"""A plan, measured: some steps of the training as it is configured, in processes of their own, without a trace."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.build import choose_budget
from metronome.app.config.foreign import give_groups
from metronome.app.measure.apart import measure_apart
from metronome.app.measure.layouts import Layout, growing, layouts_of, own_layout
from metronome.app.measure.process import Request
from metronome.units import InputError, Plan, RunFailed
from metronome.units.step_times import StepTimes, validations

_MOST = 60  # seconds for each second of steps: where steps are slow, other layouts are left out then


@dataclass(frozen=True)
class Measured:
    """What was found of a layout.

    Attributes:
        layout: a batch, and how it is cut up.
        found: times, memory; None where nothing was.
        why: what stands in the place of the numbers.
    """

    layout: Layout
    found: dict[str, Any] | None
    why: str = ""

    @property
    def times(self) -> StepTimes | None:
        return None if self.found is None else self.found["times"]


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan with what was measured of it.

    Attributes:
        plan: as it was counted.
        own: of the training as it is configured.
        others: of other layouts; for a growing batch of its sizes, the first of them its own.
        validations: in the whole training; None where that is not known.
        left_out: loggers that write where others look.
    """

    plan: Plan
    own: Measured
    others: list[Measured]
    validations: int | None
    left_out: list[str]

    def parts(self, measured: Measured) -> dict[str, float] | None:
        """Seconds of a whole training, on this layout: of steps, validations and saves."""
        plan, own, times = self.plan, self.own.found, measured.times
        if plan.total_steps is None or plan.epochs is None or own is None or times is None:
            return None
        steps = plan.total_steps * times.mean
        if self.grows:
            by_size = {other.layout.batch_size: other.times for other in self.others if other.times is not None}
            known = sorted(by_size)
            steps = 0.0
            for epoch in plan.per_epoch:
                nearest = max((size for size in known if size <= epoch.batch_size), default=known[0])
                steps += epoch.steps * by_size[nearest].mean
        count = self.validations or 0
        return {
            "steps": steps + (plan.epochs - 1) * times.epoch,
            "validations": count * (own["validation"] or 0.0),
            "saves": count * own["saving"],
        }

    @property
    def grows(self) -> bool:
        return not self.plan.series.schedule.is_constant


def measure_plan(config: DictConfig, overrides: list[str], plan: Plan, others: bool, seconds: float) -> MeasuredPlan:
    """Measure a plan.

    Args:
        config: the whole configuration.
        overrides: what was typed.
        plan: of it.
        others: whether other layouts are measured too.
        seconds: of steps, for each.

    Raises:
        InputError, RunFailed: for a training that cannot begin.
    """
    if plan.total_steps == 0:
        raise InputError("there is no step to measure: the plan has none; give a budget, or data")
    with tempfile.TemporaryDirectory(prefix="metronome_") as folder:
        settings, left_out = _settings(config, overrides, folder)
        gpus = torch.cuda.device_count() if settings["trainer"].get("accelerator") != "cpu" else 0
        processors = gpus or max(2, _cores())
        word = "GPU" if gpus else "CPU core"
        own = own_layout(plan)
        wanted = {own: own.devices <= processors}
        if not plan.series.schedule.is_constant:
            wanted |= {layout: own.devices <= processors for layout in growing(plan)}
        elif others:
            wanted = layouts_of(plan, processors)
        tell, began, most = Telling(len(wanted)), time.monotonic(), _MOST * max(seconds, 1.0)
        found: dict[Layout, Measured] = {}
        for layout, here in wanted.items():
            if not here:
                found[layout] = Measured(layout, None, f"not here: {processors} {word}s")
                continue
            tell(layout)
            if time.monotonic() - began > most:
                found[layout] = Measured(layout, None, f"left out after {most:.0f} s; seconds={2 * max(seconds, 1):g}")
                continue
            request = Request(_laid_out(settings, layout, plan, bool(gpus)), overrides, seconds, layout == own)
            found[layout] = _measured(layout, measure_apart(request, layout.devices), is_own=layout == own)
        tell.done()
    flags = settings["trainer"]
    count = validations(plan, flags.get("val_check_interval", 1.0), flags.get("check_val_every_n_epoch", 1))
    return MeasuredPlan(plan, found[own], list(found.values()), count, left_out)


def _settings(config: DictConfig, overrides: list[str], folder: str) -> tuple[dict[str, Any], list[str]]:
    """The configuration with all that it writes in a folder that goes, and the loggers that write elsewhere."""
    config = config.copy()
    config.run_dir = folder
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    give_groups(settings, OmegaConf.to_container(config, resolve=False), overrides)  # pyright: ignore
    choose_budget(settings, overrides)
    left_out = []
    for name, logger in list((settings.get("logger") or {}).items()):
        if isinstance(logger, dict) and not _writes_here(str(logger.get("_target_"))):
            left_out.append(f"logger.{name}")
            del settings["logger"][name]
    for flag in ("min_epochs", "min_steps", "max_time"):
        settings["trainer"].pop(flag, None)  # it ends when enough was measured
    if settings["trainer"].get("check_val_every_n_epoch") is not None:
        settings["trainer"]["check_val_every_n_epoch"] = 1  # in whichever epoch that is
    settings["trainer"]["num_sanity_val_steps"] = 0
    return settings, left_out


def _writes_here(target: str) -> bool:
    from hydra.utils import get_object

    try:
        made = get_object(target)
    except Exception:  # a package that is not there, perhaps
        return False
    return isinstance(made, type) and issubclass(made, Logger) and issubclass(made, TensorBoardLogger | CSVLogger)


def _laid_out(settings: dict[str, Any], layout: Layout, plan: Plan, on_gpus: bool) -> dict[str, Any]:
    """The configuration for a layout; where it is the plan's own nothing changes."""
    settings = deepcopy(settings)
    if layout == own_layout(plan):
        return settings
    flags = settings["trainer"]
    if layout.devices != plan.devices:
        several = layout.devices > 1
        flags |= {"devices": layout.devices, "strategy": "ddp" if several else "auto"}
        flags |= {"accelerator": "gpu" if on_gpus else "cpu"}
    if layout.accumulate != plan.accumulate_grad_batches:
        flags["accumulate_grad_batches"] = layout.accumulate
    if layout.batch_size != plan.batch_size:
        settings["data"] |= {"batch_size": layout.batch_size, "batch_growth": None}
    return settings


def _measured(layout: Layout, found: dict[str, Any], is_own: bool) -> Measured:
    if found.get("mistake") is not None:
        if is_own:
            raise (RunFailed if found["failed"] else InputError)(found["mistake"])
        return Measured(layout, None, found["mistake"])
    if found.get("out_of_memory"):
        return Measured(layout, None, "out of memory")
    if found.get("killed"):
        return Measured(layout, None, "was killed, as the system does when memory runs out")
    if found["times"] is None:
        return Measured(layout, None, "the training ended before a step was measured")
    return Measured(layout, found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Telling:
    """Says on a terminal which of them is measured, in a line that goes."""

    def __init__(self, count: int, stream: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.count, self.number, self.stream = count, 0, stream or sys.stderr
        self.shows = self.stream.isatty()

    def __call__(self, layout: Layout) -> None:
        self.number += 1
        if self.shows:
            text = f"measuring {self.number} of {self.count}: {layout.devices} x {layout.accumulate} micro-batches"
            self.stream.write(f"\r\x1b[K{text}")
            self.stream.flush()

    def done(self) -> None:
        if self.shows:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
