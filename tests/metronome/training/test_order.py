"""Which samples a step sees: each one once an epoch, in an order that only seed and epoch decide."""

import hashlib

import numpy as np
import pytest

from metronome.training import BatchSampler, EvaluationSampler
from metronome.training.batches.seeds import epoch_order
from metronome.units import BatchSchedule

GOLDEN = {
    (0, 0): [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9],
    (0, 1): [7, 10, 4, 11, 5, 1, 9, 8, 6, 2, 0, 3],
    (42, 0): [4, 8, 10, 1, 9, 3, 6, 0, 7, 2, 11, 5],
    (4294967295, 7): [1, 6, 8, 4, 11, 9, 3, 10, 2, 7, 5, 0],
}


def batches(devices: int, position: tuple[int, int] = (0, 0), **options: object) -> list[np.ndarray]:
    """The batches of an epoch, put together from the shares of all devices."""
    samplers = [
        BatchSampler(**{"num_samples": 53, "schedule": BatchSchedule(8), **options}, devices=devices, rank=rank)  # pyright: ignore
        for rank in range(devices)
    ]
    for sampler in samplers:
        sampler.position = position
    joined = []
    for i, shares in enumerate(zip(*samplers, strict=True)):
        step = position[1] + i
        counted = [share.indices[: s.share_size(step)] for share, s in zip(shares, samplers, strict=True)]
        assert all(len(share.indices) >= 1 for share in shares)
        joined.append(np.concatenate(counted))
        assert len(joined[-1]) == samplers[0].batch_size(step)
    return joined


@pytest.mark.parametrize("devices", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 53])
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_sample_once_in_the_same_batches_on_any_devices(devices: int, batch_size: int, drop_last: bool) -> None:
    schedule = BatchSchedule(batch_size)
    found = batches(devices, schedule=schedule, drop_last=drop_last, seed=5)
    order = epoch_order(5, 0, 53)
    steps = 53 // batch_size if drop_last else -(-53 // batch_size)
    expected = [order[i * batch_size : (i + 1) * batch_size] for i in range(steps)]
    assert [batch.tolist() for batch in found] == [batch.tolist() for batch in expected]
    assert drop_last or sorted(np.concatenate(found)) == list(range(53))


@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
@pytest.mark.parametrize("devices", [1, 3])
def test_a_start_in_mid_epoch_sees_what_was_left(start: int, devices: int) -> None:
    whole = batches(devices, (4, 0))
    rest = batches(devices, (4, start))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[start:]]


def test_the_length_of_an_epoch_does_not_depend_on_the_start() -> None:
    sampler = BatchSampler(53, BatchSchedule(8))
    sampler.position = 0, 5
    assert len(sampler) == 7


def test_the_batch_grows_with_the_epoch() -> None:
    schedule = BatchSchedule(8, 2, 1, 53)
    assert [len(batches(2, (epoch, 0), schedule=schedule)) for epoch in range(5)] == [7, 4, 2, 1, 1]


def test_without_shuffling_the_order_is_that_of_the_data() -> None:
    assert np.concatenate(batches(3, (9, 0), shuffle=False)).tolist() == list(range(53))


def test_orders_are_frozen() -> None:
    """A run must find its order again after years: these numbers may never change.

    Another order breaks the resume of every checkpoint there is: some samples would come twice, and some never.
    """
    assert epoch_order(0, 0, 12).tolist() == GOLDEN[0, 0]
    assert epoch_order(0, 1, 12).tolist() == GOLDEN[0, 1]
    assert epoch_order(42, 0, 12).tolist() == GOLDEN[42, 0]
    assert epoch_order(4_294_967_295, 7, 12).tolist() == GOLDEN[4_294_967_295, 7]
    long = epoch_order(7, 3, 60_000).astype("<i8")
    assert (
        hashlib.sha256(long.tobytes()).hexdigest() == "2be9c55cb64e8c3d6cf9a465cb4c47e8b8e3f3d940eb9b6eb67beac3749355ee"
    )


def test_seed_and_epoch_are_not_added() -> None:
    assert epoch_order(42, 1, 100).tolist() != epoch_order(43, 0, 100).tolist()


def test_orders_are_uniform() -> None:
    """Each sample comes first equally often: chi-squared with 9 degrees of freedom, 99.99 % quantile 33.7."""
    counts = np.bincount([epoch_order(1, epoch, 10)[0] for epoch in range(2_000)], minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 33.7


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(("num_samples", "batch_size"), [(23, 5), (24, 6), (1, 1), (2, 64), (100, 7), (16, 16)])
def test_evaluation_gives_every_sample_to_one_device(num_samples: int, batch_size: int, devices: int) -> None:
    samplers = [EvaluationSampler(num_samples, batch_size, devices=devices, rank=rank) for rank in range(devices)]
    seen = np.concatenate(
        [share.indices[: sampler.share_size(i)] for sampler in samplers for i, share in enumerate(sampler)]
    )
    assert sorted(seen) == list(range(num_samples))
    assert all(len(share.indices) >= 1 for sampler in samplers for share in sampler)
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]
    assert all(len(share.indices) * devices <= batch_size + devices - 1 for s in samplers for share in s)
    assert len({len(sampler) for sampler in samplers}) == 1, "devices must run the same number of batches"
