"""Which samples a step sees: each one once an epoch, in an order that only seed and epoch decide."""

import hashlib
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import Net, fit, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from metronome.data import DataModule, Splits
from metronome.training import BatchSampler, EvaluationSampler
from metronome.training.batches.seeds import STORED_UP_TO, epoch_order, order_at, sample_words
from metronome.training.batches.streams import stream_words
from metronome.units import BatchSchedule

HUGE = 10**12
GOLDEN = {
    (0, 0): [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9],
    (0, 1): [7, 10, 4, 11, 5, 1, 9, 8, 6, 2, 0, 3],
    (42, 0): [4, 8, 10, 1, 9, 3, 6, 0, 7, 2, 11, 5],
    (4294967295, 7): [1, 6, 8, 4, 11, 9, 3, 10, 2, 7, 5, 0],
}
GOLDEN_COMPUTED = {  # (seed, epoch, samples): the first five
    (0, 0, 2**20 + 1): [984519, 10315, 500459, 91508, 614687],
    (0, 1, 10**12): [258143861937, 311553370820, 876927407100, 712613135396, 52479884389],
    (42, 0, 10**12): [865191515542, 555819539304, 432951098731, 835840628456, 2580489162],
    (4294967295, 7, 2**62): [
        1203503814270594793, 2912627393946572125, 3084970390371072475, 4367348548822685564, 4034276569695439001,
    ],
}  # fmt: skip


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
    assert STORED_UP_TO == 2**20  # the last that is sorted, and the first that is computed
    most = epoch_order(7, 3, 2**20).astype("<i8")
    assert (
        hashlib.sha256(most.tobytes()).hexdigest() == "7b5831cbf0684bc16271151a9773bf9b6f399bdc59e819a47bc29c08376e49a6"
    )
    computed = epoch_order(7, 3, 2**20 + 1).astype("<i8")
    assert (
        hashlib.sha256(computed.tobytes()).hexdigest()
        == "2ffafec659a75882bc7e63b503b1fcede397cc2c76fb8fba2b9a27545b98fb3f"
    )
    assert {key: order_at(*key)(np.arange(5)).tolist() for key in GOLDEN_COMPUTED} == GOLDEN_COMPUTED


@pytest.mark.parametrize("num_samples", [1, 53, STORED_UP_TO, STORED_UP_TO + 1])
def test_any_part_of_an_order_is_that_of_the_whole(num_samples: int) -> None:
    whole, places = epoch_order(3, 2, num_samples), np.random.default_rng(0).integers(0, num_samples, (3, 40))
    assert np.array_equal(np.sort(whole), np.arange(num_samples))
    assert np.array_equal(order_at(3, 2, num_samples)(places), whole[places])


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


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 1), (2, 64), (1_000, 7), (1_003, 64), (24, 6)])
def test_evaluation_cuts_each_batch_evenly(num_samples: int, batch_size: int, devices: int) -> None:
    """The batches are those of one device, as torch cuts them; each of them is dealt out as torch cuts it."""
    batches = torch.arange(num_samples).split(batch_size)
    for rank in range(devices):
        sampler = EvaluationSampler(num_samples, batch_size, devices=devices, rank=rank)
        expected = [batch.tensor_split(devices)[rank].tolist() for batch in batches]
        assert [share.indices[: sampler.share_size(i)].tolist() for i, share in enumerate(sampler)] == expected


# ---- any number of samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_samples", [HUGE, 2**62])
def test_the_first_batch_of_very_many_samples_needs_no_list_of_them(num_samples: int, shuffle: bool) -> None:
    tracemalloc.start()
    try:
        sampler = BatchSampler(num_samples, BatchSchedule(4_096), shuffle=shuffle, seed=3)
        first = next(iter(sampler)).indices
        last = sampler.samples(len(sampler) - 1)
        evaluation = EvaluationSampler(num_samples, 4_096, devices=2, rank=1)
        assert next(iter(evaluation)).indices.tolist() == list(range(2_048, 4_096))
        assert evaluation.share_size(len(evaluation) - 1) in (2_047, 2_048)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    assert len(first) == 4_096
    assert len(last) == (num_samples - 1) % 4_096 + 1
    assert np.array_equal(first, np.arange(4_096)) is not shuffle


@pytest.mark.parametrize("epoch", [0, 9])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [3, 64, 5_000])
def test_a_start_anywhere_in_very_many_samples_sees_what_was_left(batch_size: int, devices: int, epoch: int) -> None:
    sampler = BatchSampler(HUGE + 1, BatchSchedule(batch_size), seed=5, devices=devices, rank=devices - 1)

    def seen(step: int, count: int) -> list[list[int]]:
        sampler.position = epoch, step
        return [share.indices.tolist() for share in islice(sampler, count)]

    middle, end = len(sampler) // 2, len(sampler) - 6
    for start in (0, middle):
        uninterrupted = seen(start, 80)
        assert all(seen(start + step, 2) == uninterrupted[step : step + 2] for step in (1, 7, 40, 78))
    uninterrupted = seen(end, 100)
    assert len(uninterrupted) == 6
    assert all(seen(end + step, 100) == uninterrupted[step:] for step in range(7))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [7, 64, 5_000])
@pytest.mark.parametrize("num_samples", [HUGE + 3, 2**62 + 3])
def test_shares_of_very_many_samples(num_samples: int, batch_size: int, devices: int, shuffle: bool) -> None:
    """They make up each batch in order, up to the last, smaller one; and the batches are those of the order."""
    schedule, steps = BatchSchedule(batch_size), -(-num_samples // batch_size)
    sampler = BatchSampler(num_samples, schedule, shuffle=shuffle, seed=2)
    sampler.position = 4, 0
    found = batches(devices, (4, steps - 5), num_samples=num_samples, schedule=schedule, shuffle=shuffle, seed=2)
    assert [batch.tolist() for batch in found] == [sampler.samples(step).tolist() for step in range(steps - 5, steps)]
    places = np.arange((steps - 5) * batch_size, num_samples)
    assert np.array_equal(np.concatenate(found), order_at(2, 4, num_samples)(places) if shuffle else places)
    assert len(np.unique(np.concatenate(found))) == len(places)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_sampler_that_computes_sees_every_sample_once(drop_last: bool) -> None:
    found = batches(3, num_samples=STORED_UP_TO + 2, schedule=BatchSchedule(1_000), drop_last=drop_last)
    assert [len(batch) for batch in found] == [1_000] * 1_048 + [578] * (not drop_last)
    assert len(np.unique(np.concatenate(found))) == sum(map(len, found))


def test_random_numbers_of_samples_are_those_of_numpy() -> None:
    """Of a sample whose index takes one word, and of one whose index takes two."""
    indices = np.array([0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 3 * 2**32, 10**12 - 1, 2**62, 2**63 - 1])
    for seed, epoch in ((0, 0), (7, 3), (2**32 - 1, 2**32 - 1)):
        expected = [np.random.SeedSequence((seed, epoch), spawn_key=(1, int(i))).generate_state(4) for i in indices]
        for some in (slice(None), slice(4), slice(4, None), slice(3, 5), slice(0)):
            assert sample_words(seed, epoch, indices[some]) == [words.tolist() for words in expected[some]]
    keys = np.array([3, 2**40 + 5, 2**64 - 1], dtype=np.uint64)
    expected = [np.random.SeedSequence((1, 2), spawn_key=(0, int(key), 6)).generate_state(4) for key in keys]
    assert np.array_equal(stream_words(1, 2, 0, keys, 6), expected)


class Endless(Dataset):
    """Samples that are worked out from their index, and augmented."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __len__(self) -> int:
        return HUGE

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(index)
        x = torch.sin(torch.arange(1.0, 11.0, dtype=torch.float64) * (index % 1_000_003))
        return x + 0.1 * torch.randn(10, dtype=torch.float64), x.sum().reshape(1)


class EndlessData(DataModule):
    def load(self) -> Splits:
        return Splits(train=Endless(), val=Endless())


@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": False}])
def test_a_training_on_very_many_samples_goes_on_in_mid_epoch(options: dict[str, Any], tmp_path: Path) -> None:
    flags: dict[str, Any] = {"max_epochs": -1, "max_steps": 7, "limit_val_batches": 2}
    saves = [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)]
    data = EndlessData(batch_size=16, **options)
    model, run = fit(model=Net(dropout=0.2), data=data, callbacks=saves, enable_checkpointing=True, **flags)
    seen = data.splits.train.seen
    order = order_at(run.seed, 0, HUGE) if options["shuffle"] else np.array
    assert seen == order(np.arange(7 * 16)).tolist()
    assert (run.global_step, run.counters.samples, run.plan.steps_per_epoch) == (7, 112, HUGE // 16)
    for step in (1, 4):
        again_data = EndlessData(batch_size=16, **options)
        again, rerun = fit(
            model=Net(dropout=0.2), data=again_data, checkpoint=str(tmp_path / f"step={step}.ckpt"), **flags
        )
        assert again_data.splits.train.seen == seen[step * 16 :]
        assert torch.equal(weights(again), weights(model))
        assert (rerun.global_step, rerun.counters) == (7, run.counters)
