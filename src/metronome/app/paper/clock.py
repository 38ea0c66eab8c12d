"""How long a micro-batch takes on this machine: steps of the training itself, on one device, whole and cut in two."""

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from metronome.app.measure.story import measure_plan
from metronome.app.paper.story import Clock
from metronome.units import InputError, Plan


def clock_here(
    overrides: list[str], seconds: float, plan_of: Callable[[DictConfig], Plan]
) -> Callable[[DictConfig, int], Clock]:
    """Measures when it is asked to.

    Args:
        overrides: what was typed.
        seconds: of steps, for each of two measurements.
        plan_of: the plan of a configuration on this machine.
    """

    def clock_of(config: DictConfig, samples: int) -> Clock:
        one = _on_one_device(config, 1, 1)
        most = plan_of(one).num_samples // 2
        if most < 1:
            raise InputError("there are too few samples here to measure a step; give paper.step=0.2s in its place")
        size = min(samples, most)
        whole, cut = (_seconds(_on_one_device(config, size, parts), overrides, seconds, plan_of) for parts in (1, 2))
        # Two micro-batches and the rest of a step, less one and the rest.
        micro_batch = min(max(cut - whole, 0.5 * whole), whole)
        rest = whole - micro_batch
        here = f"measured here, {size:,} sample{'s' if size > 1 else ''} at once"

        def clock(wanted: int) -> tuple[float, float, str]:
            scaled = "" if wanted == size else f", times {wanted / size:.3g}"
            return micro_batch * wanted / size, rest, here + scaled

        return clock

    return clock_of


def _on_one_device(config: DictConfig, samples: int, parts: int) -> DictConfig:
    """The same training with so many micro-batches of so many samples."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    del config["paper"]
    changes = {"trainer.devices": 1, "trainer.num_nodes": 1, "trainer.strategy": "auto", "trainer.accelerator": "auto",
               "trainer.accumulate_grad_batches": parts, "data.batch_size": samples * parts,
               "data.batch_growth": None}  # fmt: skip
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    return config


def _seconds(config: DictConfig, overrides: list[str], seconds: float, plan_of: Callable[[DictConfig], Plan]) -> float:
    own = measure_plan(config, overrides, plan_of(config), others=False, seconds=seconds).own
    if own.times is None:
        raise InputError(f"a step cannot be measured here: {own.why}; give paper.step=0.2s or paper.flops=400TFLOP/s")
    return own.times.median
