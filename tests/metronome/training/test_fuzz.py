"""Samplers of every kind: each sample once, on any devices, from any step on; and as many steps as planned."""

from fractions import Fraction
from itertools import chain
from math import floor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metronome.training import BatchSampler, EvaluationSampler, Trainer
from metronome.training.batches.cut import cut_batch, micro_batch_sizes
from metronome.units import BatchSchedule, Duration, InputError, Plan

some = settings(max_examples=150, deadline=None, derandomize=True)


class Layout(NamedTuple):
    """What decides which samples a device sees in an epoch."""

    num_samples: int
    batch_size: int
    factor: Fraction
    every: int
    devices: int
    drop_last: bool
    shuffle: bool
    seed: int

    @property
    def schedule(self) -> BatchSchedule:
        return BatchSchedule(self.batch_size, self.factor, self.every, self.num_samples)

    def samplers(self, epoch: int, step: int = 0, devices: int | None = None) -> list[BatchSampler]:
        """The samplers of all devices."""
        devices = devices or self.devices
        flags = {"seed": self.seed, "shuffle": self.shuffle, "drop_last": self.drop_last, "devices": devices}
        samplers = [BatchSampler(self.num_samples, self.schedule, **flags, rank=rank) for rank in range(devices)]
        for sampler in samplers:
            sampler.position = epoch, step
        return samplers

    def batches(self, epoch: int) -> list[int]:
        """The sizes of the batches of an epoch."""
        exact = Fraction(self.batch_size)
        for _ in range(epoch // self.every):
            exact *= self.factor
        size = min(max(floor(exact + Fraction(1, 2)), 1), self.num_samples)
        sizes, left = [], self.num_samples
        while left >= size or (left and not self.drop_last):
            sizes.append(min(size, left))
            left -= sizes[-1]
        return sizes


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    num_samples = draw(st.integers(1, 60))
    return Layout(
        num_samples,
        draw(st.integers(1, num_samples)),
        draw(st.sampled_from([Fraction(n) for n in ("1", "2", "3/2", "11/10", "1/2", "9/10")])),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 7)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 2**32 - 1)),
    )


EPOCHS = st.integers(0, 12)


def shares(sampler: BatchSampler | EvaluationSampler, start: int = 0) -> list[list[int]]:
    """The samples that count of each batch that a sampler yields; it yields never fewer than one."""
    found: list[list[int]] = []
    for step, share in enumerate(sampler, start):
        assert len(share.indices) == max(sampler.share_size(step), 1)
        assert share.indices.dtype == np.int64
        found.append(share.indices[: sampler.share_size(step)].tolist())
    return found


def joined(samplers: list[BatchSampler], start: int = 0) -> list[list[int]]:
    """The batches, put together from the shares of all devices."""
    by_device = [shares(sampler, start) for sampler in samplers]
    return [list(chain(*parts)) for parts in zip(*by_device, strict=True)]


@some
@given(layouts(), EPOCHS)
def test_every_sample_once_an_epoch(layout: Layout, epoch: int) -> None:
    samplers = layout.samplers(epoch)
    batches, sizes = joined(samplers), layout.batches(epoch)
    assert [len(batch) for batch in batches] == sizes
    assert [samplers[0].batch_size(step) for step in range(len(sizes))] == sizes
    assert {len(sampler) for sampler in samplers} == {len(sizes)}
    seen = list(chain(*batches))
    if layout.drop_last:
        assert len(seen) == len(set(seen)) == layout.num_samples // sizes[0] * sizes[0]
        assert set(seen) <= set(range(layout.num_samples))
    else:
        assert sorted(seen) == list(range(layout.num_samples))
    assert layout.shuffle or seen == list(range(len(seen)))
    assert batches == joined(layout.samplers(epoch, devices=1)), "the batches depend on the number of devices"


@some
@given(layouts(), EPOCHS, st.data())
def test_a_start_in_mid_epoch_is_the_rest_of_the_epoch(layout: Layout, epoch: int, data: st.DataObject) -> None:
    steps = len(layout.batches(epoch))
    start = data.draw(st.integers(0, steps))
    for whole, rest in zip(layout.samplers(epoch), layout.samplers(epoch, start), strict=True):
        everything = [share.indices.tolist() for share in whole]
        assert [share.indices.tolist() for share in rest] == everything[start:]
        assert [share.indices.tolist() for share in rest] == everything[start:], "the second time too"
        assert [rest.share_size(step) for step in range(steps)] == [whole.share_size(step) for step in range(steps)]
        assert {share.epoch for share in rest} <= {epoch}
        assert len(rest) == steps


@some
@given(st.integers(1, 400), st.integers(1, 400) | st.integers(1, 8))
def test_micro_batches_are_even_and_never_empty(samples: int, parts: int) -> None:
    sizes = micro_batch_sizes(samples, parts)
    assert sum(sizes) == samples
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == sorted([parts, samples])[0]
    pieces = cut_batch({"x": torch.arange(samples)}, sizes)
    assert [len(piece["x"]) for piece in pieces] == sizes
    assert torch.cat([piece["x"] for piece in pieces]).tolist() == list(range(samples))


@some
@given(layouts(), st.none() | st.integers(1, 20) | st.floats(0.5, 1), st.integers(1, 5), st.data())
def test_the_plan_is_what_the_samplers_yield(
    layout: Layout, limit: int | float | None, epochs: int, data: st.DataObject
) -> None:
    share = len(range(0, layout.batch_size, layout.devices))
    accumulate = data.draw(st.integers(1, share))
    if isinstance(limit, float):
        # A part of an epoch must leave a step of it.
        epochs = next((epoch for epoch in range(epochs) if int(len(layout.batches(epoch)) * limit) == 0), epochs)
        if epochs == 0:
            return
    plan = Plan.make(
        layout.num_samples,
        layout.schedule,
        devices=layout.devices,
        accumulate_grad_batches=accumulate,
        drop_last=layout.drop_last,
        limit_train_batches=limit,
        budgets=[Duration(epochs, "epochs")],
    )
    assert len(plan.per_epoch) == epochs
    largest = len(range(0, share, accumulate))
    assert plan.micro_batch_size == largest
    for planned in plan.per_epoch:
        full = layout.batches(planned.epoch)
        steps = int(len(full) * limit) if isinstance(limit, float) else len(full[:limit])
        # As many more pieces than in the first epoch as it takes for none to be larger.
        parts = accumulate
        while max(micro_batch_sizes(len(range(0, full[0], layout.devices)), parts)) > largest:
            parts += 1
        run = [shares(sampler)[:steps] for sampler in layout.samplers(planned.epoch)]
        usual = max(micro_batch_sizes(len(range(0, full[0], layout.devices)), parts))
        cut: list[list[list[int]]] = [[] for _ in run]
        iterations = 0
        for held, samples in zip(zip(*run, strict=True), full, strict=False):
            pieces = min(parts, max(map(len, held)))
            # A smaller last batch in fewer, as long as one sample would be alone, and none of them becomes too large.
            while samples < full[0] and pieces > 1 and min(map(len, held)) // pieces < 2:
                if -(-max(map(len, held)) // (pieces - 1)) > usual:
                    break
                pieces -= 1
            iterations += pieces
            for device, share in zip(cut, held, strict=True):
                device += [micro_batch_sizes(len(share), pieces)] if share else []
        assert planned.steps == len(run[0]) == steps
        assert planned.samples == sum(len(share) for device in run for share in device)
        assert planned.iterations == iterations
        assert max(size for device in cut for sizes in device for size in sizes) <= largest
    assert plan.total_steps == sum(planned.steps for planned in plan.per_epoch)


@some
@given(st.integers(1, 80), st.integers(1, 100), st.integers(1, 8))
def test_evaluation_gives_every_sample_to_one_device(num_samples: int, batch_size: int, devices: int) -> None:
    samplers = [EvaluationSampler(num_samples, batch_size, devices=devices, rank=rank) for rank in range(devices)]
    found = [shares(sampler) for sampler in samplers]
    assert sorted(index for device in found for share in device for index in share) == list(range(num_samples))
    batches = len(range(0, num_samples, batch_size))
    assert [len(device) for device in found] == [len(sampler) for sampler in samplers] == [batches] * devices
    for number, held in enumerate(zip(*found, strict=True)):
        inside = range(number * batch_size, min((number + 1) * batch_size, num_samples))
        assert [index for share in held for index in share] == list(inside), "the same samples on any devices"
        assert max(map(len, held)) - min(map(len, held)) <= 1
    assert found == [shares(sampler) for sampler in samplers], "the second time too"


@pytest.mark.parametrize("budget", ["1e9 days", "1e99 days", "86399999999999.9999999 s"])
def test_a_time_that_no_clock_holds_is_a_mistake(budget: str) -> None:
    with pytest.raises(InputError, match="longer than any clock"):
        Trainer(budget=budget, accelerator="cpu", logger=False, enable_checkpointing=False)
