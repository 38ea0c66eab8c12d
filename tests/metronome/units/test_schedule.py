import random
from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest

from metronome.units import BatchSchedule, InputError


@pytest.mark.parametrize(
    ("schedule", "sizes"),
    [
        (BatchSchedule(64), [64, 64, 64]),
        (BatchSchedule(8, 2), [8, 16, 32, 64, 128, 256]),
        (BatchSchedule(8, 2, maximum=157), [8, 16, 32, 64, 128, 157, 157]),
        (BatchSchedule(8, 2, every=2), [8, 8, 16, 16, 32]),
        (BatchSchedule(8, Fraction(3, 2)), [8, 12, 18, 27, 41, 61]),  # 40.5 rounds up, 60.75
        (BatchSchedule(18, Fraction(5, 6)), [18, 15, 13, 10, 9]),  # 12.5 rounds up, 10.42, 8.68
        (BatchSchedule(5, Fraction(1, 2)), [5, 3, 1, 1, 1, 1]),  # 2.5, 1.25, 0.63, 0.31 -> at least 1
    ],
)
def test_batch_size_of_each_epoch(schedule, sizes):
    assert [schedule.at(epoch) for epoch in range(len(sizes))] == sizes


@pytest.mark.parametrize(
    ("schedule", "size"),
    [
        (BatchSchedule(8, 2, maximum=157), 157),
        (BatchSchedule(8, Fraction(1, 2)), 1),
        (BatchSchedule(8, Fraction(1_000_001, 1_000_000)), 22),  # 8 e = 21.7
    ],
)
def test_a_million_epochs_in(schedule, size):
    assert schedule.at(1_000_000) == size


def test_a_million_epochs_in_without_a_maximum():
    assert BatchSchedule(8, 2).at(1_000_000) - 8 * 2**1_000_000 == 0


def test_against_exact_fractions():
    draw = random.Random(0)
    for _ in range(300):
        size, factor = draw.randint(1, 99), Fraction(draw.randint(1, 9), draw.randint(1, 9))
        every, maximum = draw.randint(1, 3), draw.choice([None, draw.randint(1, 500)])
        schedule = BatchSchedule(size, factor, every, maximum)
        for epoch in range(40):
            exact = max(1, floor(size * factor ** (epoch // every) + Fraction(1, 2)))
            assert schedule.at(epoch) == min(exact, maximum or exact), (schedule, epoch)


@pytest.mark.parametrize(
    ("schedule", "changes"),
    [
        (BatchSchedule(8), []),
        (BatchSchedule(8, 2, maximum=8), []),
        (BatchSchedule(8, 2, maximum=40), [1, 2, 3]),
        (BatchSchedule(8, 2, every=5, maximum=20), [5, 10]),
        (BatchSchedule(1, Fraction(6, 5), maximum=3), [3, 6]),  # 1, 1.2, 1.44, 1.73, 2.07, 2.49, 2.99
        (BatchSchedule(2, Fraction(1, 2)), [1]),
    ],
)
def test_next_change(schedule, changes):
    found, epoch = [], schedule.next_change(0)
    while epoch is not None:
        found.append(epoch)
        epoch = schedule.next_change(epoch)
    assert found == changes
    assert schedule.is_constant == (not changes)
    assert found == [b for a, b in pairwise(range(30)) if schedule.at(a) != schedule.at(b)]


@pytest.mark.parametrize(
    ("batch_size", "growth", "sizes"),
    [
        (64, None, [64, 64]),
        ("64", None, [64, 64]),
        (1000, None, [1000, 1000]),
        ("full", None, [1000, 1000]),
        (300, {"factor": 2}, [300, 600, 1000, 1000]),
        (300, {"factor": 2, "max": 700}, [300, 600, 700, 700]),
        (300, {"factor": 2, "max": 5000}, [300, 600, 1000, 1000]),
        (100, {"factor": 1.1, "every": 2}, [100, 100, 110, 110, 121]),
        (100, {"factor": "1.5", "every": "2 epochs"}, [100, 100, 150, 150, 225]),
        (100, {"factor": 2, "every": "1 epoch", "max": None}, [100, 200]),
        (100, {"factor": 2, "every": None}, [100, 200]),
        (100, {"factor": 0.5}, [100, 50, 25, 13]),
    ],
)
def test_of(batch_size, growth, sizes):
    schedule = BatchSchedule.of(batch_size, 1000, growth)
    assert [schedule.at(epoch) for epoch in range(len(sizes))] == sizes
    assert schedule.maximum in range(1, 1001)


def test_factor_is_read_as_written():
    assert BatchSchedule.of(1, 10, {"factor": 1.1}).factor == Fraction(11, 10)


@pytest.mark.parametrize(
    ("batch_size", "num_samples", "growth", "told"),
    [
        (
            2000,
            1000,
            None,
            "batch_size=2000 is larger than the 1,000 training samples; use data.batch_size=full",
        ),
        (0, 1000, None, "data.batch_size=0"),
        (-5, 1000, None, "data.batch_size=-5"),
        ("many", 1000, None, "use a whole number from 1 to 1,000, or data.batch_size=full"),
        (True, 1000, None, "data.batch_size=True"),
        (64.0, 1000, None, "data.batch_size=64.0"),
        (None, 1000, None, "data.batch_size=None"),
        (64, 0, None, "the training data set is empty"),
        ("full", 0, None, "the training data set is empty"),
        ("full", 1000, {"factor": 2}, "data.batch_growth"),
        (8, 1000, {}, "data.batch_growth.factor"),
        (8, 1000, {"factor": 0}, "data.batch_growth.factor=0"),
        (8, 1000, {"factor": -2}, "data.batch_growth.factor=-2"),
        (8, 1000, {"factor": float("inf")}, "data.batch_growth.factor=inf"),
        (8, 1000, {"factor": True}, "data.batch_growth.factor=True"),
        (8, 1000, {"factor": 2, "evry": 1}, "data.batch_growth does not know 'evry'"),
        (8, 1000, {"factor": 2, "accumulate": 1}, "data.batch_growth.accumulate=1 is neither true nor false"),
        (8, 1000, {"factor": 2, "every": 0}, "data.batch_growth.every='0'"),
        (8, 1000, {"factor": 2, "every": "0.5 epochs"}, "must be whole epochs"),
        (8, 1000, {"factor": 2, "every": "10 steps"}, "must be whole epochs"),
        (8, 1000, {"factor": 2, "max": 4}, "data.batch_growth.max=4"),
        (8, 1000, {"factor": 2, "max": "lots"}, "data.batch_growth.max='lots'"),
    ],
)
def test_mistakes_are_told_in_one_line(batch_size, num_samples, growth, told):
    with pytest.raises(InputError) as error:
        BatchSchedule.of(batch_size, num_samples, growth)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
