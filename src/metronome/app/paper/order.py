"""The order of a training on devices that are not here, checked with the sampler that each of them would have."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metronome.training.batches.order import BatchSampler
from metronome.training.batches.seeds import check_seed
from metronome.units import Plan

_MOST = 2_000_000  # samples of all batches that are checked
_MOST_DEVICES = 8_192


@dataclass(frozen=True)
class Checked:
    """Attributes:
    steps: of the first epoch that were looked at.
    samples: in all of them.
    """

    steps: tuple[int, ...]
    samples: int


def check_order(plan: Plan, settings: dict[str, Any]) -> Checked | None:
    """Deal batches out as every device would: the first, the last and some between. None where one alone is too
    large, or there are very many devices.

    Raises:
        AssertionError: if a sample goes to two devices, or to none.
    """
    last = plan.steps_per_epoch - 1
    wanted = dict.fromkeys((0, last, last // 3, max(last - 1, 0)) if last >= 0 else ())
    steps = tuple(sorted(list(wanted)[: _MOST // plan.batch_size]))
    if not steps or plan.devices > _MOST_DEVICES:
        return None
    options: dict[str, Any] = {
        "seed": check_seed(settings["seed"]),
        "shuffle": bool(settings["data"].get("shuffle", True)),
        "drop_last": plan.drop_last,
    }
    counted = 0
    one = BatchSampler(plan.num_samples, plan.series.schedule, **options)
    samplers = [
        BatchSampler(plan.num_samples, plan.series.schedule, devices=plan.devices, rank=rank, **options)
        for rank in range(plan.devices)
    ]
    for step in steps:
        counted += check_step(one, samplers, step)
    return Checked(steps, counted)


def check_step(one: BatchSampler, samplers: list[BatchSampler], step: int) -> int:
    """The samples of a step: dealt out over devices, beside those of one device. Returns how many they are.

    Raises:
        AssertionError: if they differ, in their order too.
    """
    one.position = (0, step)
    whole = next(iter(one)).indices
    shares = []
    for sampler in samplers:
        sampler.position = (0, step)
        share = next(iter(sampler)).indices
        shares.append(share[: sampler.share_size(step)])  # one that is empty reads a sample all the same
    dealt = np.concatenate(shares)
    assert np.array_equal(dealt, whole), f"step {step}: the shares of {len(samplers)} devices are not the batch"
    assert len(np.unique(whole)) == len(whole) == one.batch_size(step), f"step {step}: a sample twice"
    return len(whole)
