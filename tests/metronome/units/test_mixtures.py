"""Mixtures on paper: which set each place belongs to, what an epoch is, and what a plan takes of each set."""

import random
from fractions import Fraction

import pytest

from metronome.units import BatchSchedule, Duration, InputError, Plan
from metronome.units.mixtures.counts import CountsOfMixture
from metronome.units.mixtures.mix import LARGEST_BLOCK, Mix


@pytest.mark.parametrize("case", range(20))
def test_each_set_has_its_part_of_any_beginning(case: int) -> None:
    """Less than one sample more or less, wherever it is cut; exactly after a block, and so on without end."""
    draw = random.Random(case)
    names = [f"set{i}" for i in range(draw.randint(1, 6))]
    weights = {
        name: draw.choice([draw.randint(1, 9), draw.randint(1, 60), round(draw.random() + 0.01, 2)]) for name in names
    }
    mix = Mix.of(dict.fromkeys(names, 10), weights)
    total = sum(Fraction(str(weight)) for weight in weights.values())
    seen = [0] * len(names)
    for place in range(min(2 * mix.block, 300)):
        assert mix.counts(place) == tuple(seen)
        seen[mix.pattern[place % mix.block]] += 1
        for count, weight in zip(seen, weights.values(), strict=True):
            assert abs(count - (place + 1) * Fraction(str(weight)) / total) < 1
    assert mix.counts(7 * mix.block) == tuple(7 * part for part in mix.parts)


@pytest.mark.parametrize(
    ("sizes", "options", "parts", "samples"),
    [
        # 1 in 4 of 20, 3 in 4 of 137: after ceil(137 x 4/3) = 183 samples the larger is through, the smaller 2.3 times
        ((20, 137), {"weights": {"a": 1, "b": 3}}, (1, 3), 183),
        ((20, 137), {"weights": {"a": 1, "b": 3}, "epoch": "a"}, (1, 3), 80),
        ((20, 137), {"weights": {"a": 1, "b": 3}, "epoch": "1_000 samples"}, (1, 3), 1000),
        ((20, 137), {"weights": {"a": 1, "b": 3}, "epoch": 50}, (1, 3), 50),
        ((20, 137), {"weights": {"a": 0.1, "b": "0.3"}}, (1, 3), 183),
        ((30, 120), {}, (1, 4), 150),  # in proportion: every sample once
        ((30, 120), {"alpha": 1}, (1, 4), 150),
        ((30, 120), {"alpha": 0}, (1, 1), 240),
        ((30, 120), {"alpha": 0.5}, (1, 2), 180),  # sqrt(30) : sqrt(120)
    ],
)
def test_by_hand(sizes: tuple[int, int], options: dict, parts: tuple[int, int], samples: int) -> None:
    mix = Mix.of(dict(zip("ab", sizes, strict=True)), **options)
    assert (mix.parts, mix.samples_per_epoch, mix.is_rounded) == (parts, samples, False)
    if options.get("epoch") is None:
        assert all(count >= size for count, size in zip(mix.counts(samples), sizes, strict=True))
        assert any(count == size for count, size in zip(mix.counts(samples), sizes, strict=True))


def test_weights_that_need_too_large_a_block_are_rounded() -> None:
    mix = Mix.of({"a": 10, "b": 10}, {"a": 1, "b": 1_000_003})
    assert mix.is_rounded
    assert mix.parts == (1, LARGEST_BLOCK - 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": {"a": 1}}, "needs a weight for each of its sets"),
        ({"weights": {"a": 1, "b": 0}}, "above 0"),
        ({"weights": {"a": 1, "b": "many"}}, "above 0"),
        ({"weights": {"a": 1, "b": float("nan")}}, "above 0"),
        ({"weights": {"a": 1, "b": True}}, "above 0"),
        ({"weights": {"a": 1, "b": 1}, "alpha": 1}, "not both"),
        ({"alpha": -1}, "from 0 up"),
        ({"epoch": "c"}, "nor one of its sets: a, b"),
        ({"epoch": 0}, "neither a number of samples"),
        ({"epoch": "2 epochs"}, "neither a number of samples"),
    ],
)
def test_said_in_one_line(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Mix.of({"a": 3, "b": 4}, **options)


def test_a_plan() -> None:
    """Two epochs of 183 samples of 1 : 3 are 366: 91 and 275, since the third in each four is of the first set."""
    mix = Mix.of({"a": 20, "b": 137}, {"a": 1, "b": 3})
    budget = [Duration.parse("2 epochs")]
    plan = Plan.make(mix.samples_per_epoch, BatchSchedule(32), budgets=budget, mix=mix)
    assert plan.as_dict()["sets"] == {
        "a": {"num_samples": 20, "weight": 0.25, "samples_per_epoch": 46, "total_samples": 91, "times": 91 / 20},
        "b": {"num_samples": 137, "weight": 0.75, "samples_per_epoch": 137, "total_samples": 275, "times": 275 / 137},
    }
    assert "1 in 4:  46 an epoch, 2.3 times its 20, 4.55 times in all" in plan.text()
    assert max(map(len, plan.text().splitlines())) <= 80
    cut = Plan.make(183, BatchSchedule(32), budgets=budget, mix=mix, limit_train_batches=2)  # 64 and 64 samples
    assert [entry["total_samples"] for entry in cut.as_dict()["sets"].values()] == [16 + 16, 48 + 48]


def test_counts_go_on_where_they_were() -> None:
    mix, other = Mix.of({"a": 20, "b": 137}, {"a": 1, "b": 3}), Mix.of({"b": 137, "c": 5}, {"b": 1, "c": 1})
    counts = CountsOfMixture.begun(None, mix, 0, 0, 0)
    assert counts.counts(183) == {"a": (46, 20), "b": (137, 137)}
    again = CountsOfMixture.of_state(counts.state_dict())
    assert CountsOfMixture.begun(again, mix, 0, 100, 3).counts(183) == counts.counts(183)
    changed = CountsOfMixture.begun(again, other, 1, 183, 0)
    assert changed.counts(193) == {"a": (46, 20), "b": (142, 137), "c": (5, 5)}
