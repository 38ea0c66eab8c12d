"""Dealt out over 1,024 devices, of a million million samples, every batch is whole: each of its samples once."""

import numpy as np
import pytest

from metronome.training.batches.order import BatchSampler
from metronome.units import BatchSchedule

SAMPLES, DEVICES = 10**12, 1_024


@pytest.mark.parametrize(
    ("batch_size", "drop_last"),
    [
        (3_001, False),  # shares of two and of three, and a last batch that is smaller
        pytest.param(4_096, False, marks=pytest.mark.slow),  # which divides 10^12
        pytest.param(999_983, True, marks=pytest.mark.slow),
        pytest.param(1_000_003, False, marks=pytest.mark.slow),
    ],
)
def test_over_very_many_devices(batch_size: int, drop_last: bool) -> None:
    schedule = BatchSchedule(batch_size)
    options = {"seed": 5, "drop_last": drop_last}
    one = BatchSampler(SAMPLES, schedule, **options)
    samplers = [BatchSampler(SAMPLES, schedule, devices=DEVICES, rank=rank, **options) for rank in range(DEVICES)]
    last = len(one) - 1
    assert last == (SAMPLES // batch_size if drop_last else -(-SAMPLES // batch_size)) - 1
    seen: list[np.ndarray] = []
    for epoch, step in ((0, 0), (0, last), (3, last // 2)):
        whole = batch_of(one, epoch, step)
        assert len(whole) == one.batch_size(step) == min(batch_size, SAMPLES - step * batch_size)
        shares = [batch_of(sampler, epoch, step) for sampler in samplers]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert np.array_equal(np.concatenate(shares), whole)
        assert len(np.unique(whole)) == len(whole)
        assert whole.min() >= 0
        assert whole.max() < SAMPLES
        if epoch == 0:
            seen.append(whole)
    together = np.concatenate(seen)
    assert len(np.unique(together)) == len(together)  # nor do batches of an epoch share any
    assert together.std() == pytest.approx(SAMPLES / 12**0.5, rel=0.1)  # and they come from everywhere


def test_one_that_is_smaller_than_the_devices() -> None:
    """Who has no sample of the last batch reads one all the same, which does not count."""
    one = BatchSampler(SAMPLES + 100, BatchSchedule(4_000), seed=5)
    last = len(one) - 1
    assert one.batch_size(last) == 100
    counted = []
    for rank in range(DEVICES):
        sampler = BatchSampler(SAMPLES + 100, BatchSchedule(4_000), seed=5, devices=DEVICES, rank=rank)
        sampler.position = (0, last)
        (share,) = list(sampler)
        assert len(share.indices) == 1
        counted += share.indices[: sampler.share_size(last)].tolist()
    assert counted == batch_of(one, 0, last).tolist()


def batch_of(sampler: BatchSampler, epoch: int, step: int) -> np.ndarray:
    """The samples of a step that count on the sampler's device."""
    sampler.position = (epoch, step)
    share = next(iter(sampler))
    assert share.epoch == epoch
    return share.indices[: sampler.share_size(step)]
