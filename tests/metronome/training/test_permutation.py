"""A computed order is a permutation of any size, and looks like one drawn at random."""

from itertools import combinations
from math import isqrt, sqrt

import numpy as np
import pytest

from metronome.training.batches.permutation import ROUNDS, Permutation

HUGE = 10**12
MASK = 2**64 - 1
PLACES = [(0, 0), (0, 1), (1, 0), (42, 1), (43, 0), (4_294_967_295, 7)]  # (seed, epoch)


def keys(seed: int, epoch: int, rounds: int = ROUNDS) -> list[int]:
    return np.random.SeedSequence((seed, epoch), spawn_key=(2,)).generate_state(rounds, np.uint64).tolist()


def whole(size: int, keys: list[int]) -> np.ndarray:
    return Permutation(size, keys)(np.arange(size))


def by_hand(size: int, keys: list[int], place: int) -> int:
    """The same network in Python's integers, written from its description."""
    rows = next(n for n in range(isqrt(size), size + 1) if n * n >= size)
    columns = next(n for n in range(size // rows, size + 1) if rows * n >= size)

    def hashed(half: int, key: int, below: int) -> int:
        word = (half ^ key) * 0xBF58476D1CE4E5B9 & MASK
        word = (word ^ word >> 32) * 0x94D049BB133111EB & MASK
        return (word >> 32) * below >> 32

    while True:
        left, right = divmod(place, columns)
        for i, key in enumerate(keys):
            if i % 2 == 0:
                right = (right + hashed(left, key, columns)) % columns
            else:
                left = (left + hashed(right, key, rows)) % rows
        place = left * columns + right
        if place < size:
            return place


# ---- it is a permutation ----------------------------------------------------------------------------------------


def is_permutation(order: np.ndarray) -> bool:
    return order.min() == 0 and bool((np.bincount(order, minlength=len(order)) == 1).all())


def test_of_every_small_size() -> None:
    assert [size for size in range(1, 2_001) if not is_permutation(whole(size, keys(size, 3)))] == []


@pytest.mark.parametrize("power", range(11, 21))  # every other one a power of 4
def test_around_powers_of_two(power: int) -> None:
    sizes = [2**power + more for more in (-2, -1, 0, 1, 2)]
    assert [size for size in sizes if not is_permutation(whole(size, keys(size, power)))] == []


@pytest.mark.parametrize("side", [100, 577, 1_000])
def test_around_squares_and_rectangles(side: int) -> None:
    """Where the rectangle fits the size exactly, and where it fits worst."""
    sizes = [side * other + more for other in (side, side + 1) for more in (-1, 0, 1)]
    assert [size for size in sizes if not is_permutation(whole(size, keys(size, side)))] == []


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12, 1_000, HUGE, HUGE + 1, 2**62, 2**62 + 1, 2**63 - 1])
def test_against_whole_numbers_without_bounds(size: int) -> None:
    places = sorted({place % size for place in (0, 1, 2, size // 3, size // 2, size - 2, size - 1)})
    expected = [by_hand(size, keys(size % 1_000, 1), place) for place in places]
    assert Permutation(size, keys(size % 1_000, 1))(np.array(places)).tolist() == expected


@pytest.mark.parametrize("size", [HUGE, HUGE + 7, 2**62, 2**63 - 1])
@pytest.mark.parametrize("part", [0, 0.37, 1])
def test_of_many_no_number_comes_twice(size: int, part: float) -> None:
    count = 1_000_000
    start = int(part * (size - count))
    found = Permutation(size, keys(5, 0))(np.arange(start, start + count))
    assert found.dtype == np.int64
    assert found.min() >= 0
    assert found.max() < size
    assert np.diff(np.sort(found, axis=None)).min() >= 1


def test_any_places_in_any_shape() -> None:
    permutation = Permutation(HUGE + 7, keys(1, 1))
    places = np.random.default_rng(0).integers(0, HUGE + 7, (4, 5_000))
    before, found = places.copy(), permutation(places)
    assert found.shape == (4, 5_000)
    assert np.array_equal(places, before)
    assert [int(permutation(places[i, i : i + 1])[0]) for i in range(4)] == [int(found[i, i]) for i in range(4)]
    assert permutation(places[:, :0]).shape == (4, 0)


# ---- it looks like one drawn at random --------------------------------------------------------------------------
# Each figure is 0 on average over all permutations, and 1 in size; so that of one drawn at random is seldom above 4.

BINS, MOST = 64, 5


def dependence(rows: np.ndarray, columns: np.ndarray) -> float:
    """Chi-squared of two columns of numbers below BINS: above 0 if they hang together, below if they spread evenly."""
    counts = np.bincount(rows * BINS + columns, minlength=BINS**2).reshape(BINS, BINS)
    expected = np.outer(counts.sum(1), counts.sum(0)) / len(rows)
    freedom = (BINS - 1) ** 2
    return float((((counts - expected) ** 2 / expected).sum() * (1 - 1 / len(rows)) - freedom) / sqrt(2 * freedom))


def unevenness(numbers: np.ndarray, size: int) -> float:
    """Chi-squared of how often numbers below `size` fall into each of 1,024 equal bins."""
    counts, expected = np.bincount(in_bins(numbers, size, 1_024), minlength=1_024), len(numbers) / 1_024
    return float((((counts - expected) ** 2 / expected).sum() - 1_023) / sqrt(2 * 1_023))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1] * sqrt(len(a)))


def in_bins(numbers: np.ndarray, size: int, bins: int = BINS) -> np.ndarray:
    return (numbers / size * bins).astype(np.int64)


def figures(order: np.ndarray) -> dict[str, float]:
    """Of a whole permutation: place against number, and each number against one that comes soon after."""
    size, places = len(order), np.arange(len(order))
    row = isqrt(size - 1) + 1  # the network's, where it would show first
    found = {
        "upper, upper": dependence(in_bins(places, size), in_bins(order, size)),
        "lower, lower": dependence(places % BINS, order % BINS),
        "upper, lower": dependence(in_bins(places, size), order % BINS),
        "lower, upper": dependence(places % BINS, in_bins(order, size)),
        "place": correlation(places, order),
    }
    for lag in (1, 2, 7, row - 1, row, row + 1):
        found[f"serial {lag}"] = correlation(order[lag:], order[:-lag])
        found[f"step {lag}"] = unevenness((order[lag:] - order[:-lag]) % size, size)
    return found


def pairs(order: np.ndarray, row: int) -> dict[str, float]:
    """Of all pairs of places in the same row, or the same column, of a square: how many keep their distance in it."""
    square, found = order.reshape(-1, row), {}
    for name, table in (("row", square), ("column", square.T)):
        halves = (table // row, table % row)
        for i, half in enumerate(halves):
            kept = kept_and_equal = of = 0
            for lag in range(1, row):
                keeps = (half[:, lag:] - half[:, :-lag]) % row == lag
                kept, of = kept + int(keeps.sum()), of + keeps.size
                kept_and_equal += int((keeps & (halves[1 - i][:, lag:] == halves[1 - i][:, :-lag])).sum())
            found[f"{name} {i} kept"] = (kept - of / row) / sqrt(of / row)
            found[f"{name} {i} kept, other equal"] = (kept_and_equal - of / row**2) / sqrt(of / row**2)
    return found


def suspicious(found: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 1) for name, figure in found.items() if not abs(figure) < MOST}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [2**18, 2**18 + 1, 300_000])
def test_places_and_neighbours_are_independent(size: int, place: tuple[int, int]) -> None:
    assert suspicious(figures(whole(size, keys(*place)))) == {}


@pytest.mark.parametrize("place", PLACES)
def test_pairs_are_as_far_apart_as_any(place: tuple[int, int]) -> None:
    assert suspicious(pairs(whole(2**16, keys(*place)), 2**8)) == {}


@pytest.mark.parametrize("place", PLACES[::3])
def test_these_figures_are_those_of_a_permutation_drawn_at_random(place: tuple[int, int]) -> None:
    generator = np.random.default_rng(place)
    assert suspicious(figures(generator.permutation(300_000))) == {}
    assert suspicious(pairs(generator.permutation(2**16), 2**8)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES[::3])
def test_fewer_rounds_would_show(place: tuple[int, int]) -> None:
    """So the tests can tell; and what theory says of 3, 4 and 5 rounds is there."""
    assert len(suspicious(figures(whole(300_000, keys(*place, rounds=2))))) >= 5
    assert len(suspicious(figures(whole(300_000, keys(*place, rounds=3))))) >= 5
    assert suspicious(pairs(whole(2**16, keys(*place, rounds=4)), 2**8))["row 1 kept"] > 100
    assert list(suspicious(pairs(whole(2**16, keys(*place, rounds=5)), 2**8))) == ["row 1 kept, other equal"]
    assert suspicious(pairs(whole(2**16, keys(*place, rounds=6)), 2**8)) == {}


def figures_of_a_part(size: int, row: int, keys: list[int]) -> dict[str, float]:
    """Of a million places out of far more, 1,000 in each of 1,000 rows: the numbers there, and steps to the next."""
    places = np.arange(1_000)[:, None] * row + np.arange(1_000)
    order = Permutation(size, keys)(places)
    found = {"place": correlation(places.ravel(), order.ravel())}
    for half, numbers, below in (("all", order, size), ("lower", order % 1_024, 1_024)):
        found[f"{half}"] = unevenness(numbers.ravel(), below)
        for axis in (0, 1):
            before, after = numbers.swapaxes(0, axis)[:-1].ravel(), numbers.swapaxes(0, axis)[1:].ravel()
            found[f"{half}, step {axis}"] = unevenness((after - before) % below, below)
            found[f"{half}, serial {axis}"] = correlation(after, before)
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("size", [HUGE, HUGE + 1, 2**62])
def test_a_part_of_many_looks_random(size: int, place: tuple[int, int]) -> None:
    for row in (1_000, isqrt(size - 1) + 1):  # one place after another; next to each other in the network's halves
        assert suspicious(figures_of_a_part(size, row, keys(*place))) == {}


@pytest.mark.parametrize("place", PLACES[::3])
def test_a_part_of_many_would_show_fewer_rounds(place: tuple[int, int]) -> None:
    assert suspicious(figures_of_a_part(HUGE, 1_000, keys(*place, rounds=2)))
    assert suspicious(figures_of_a_part(HUGE, 10**6, keys(*place, rounds=3)))


def test_every_permutation_of_few_comes_equally_often() -> None:
    """All 120 orders of 5, in 3,000 epochs: chi-squared with 119 degrees of freedom, 99.99 % quantile 184.

    Halves of two and three numbers know only few hashes, so that it takes more rounds than orders of many do.
    """

    def chi_squared(rounds: int) -> float:
        orders = [whole(5, keys(1, epoch, rounds)) for epoch in range(3_000)]
        _, counts = np.unique(orders, axis=0, return_counts=True)
        return float(((counts - 25) ** 2 / 25).sum() + 25 * (120 - len(counts)))

    assert chi_squared(16) < 184
    assert chi_squared(3) > 1_000


# ---- orders have nothing to do with each other ------------------------------------------------------------------


@pytest.mark.parametrize("places", combinations(PLACES, 2))
def test_orders_of_other_seeds_and_epochs_are_unrelated(places: tuple[tuple[int, int], tuple[int, int]]) -> None:
    size = 2**18 + 1
    a, b = (whole(size, keys(*place)) for place in places)
    assert (a == b).sum() <= 8  # 1 on average
    assert suspicious(
        {
            "numbers": dependence(in_bins(a, size), in_bins(b, size)),
            "lower": dependence(a % BINS, b % BINS),
            "correlation": correlation(a, b),
            "differences": unevenness((a - b) % size, size),
        }
    ) == {}  # fmt: skip


def test_keys_that_are_almost_the_same_are_unrelated() -> None:
    """One bit of one key: the round in which it is changes everything after it."""
    size, before = 2**18 + 1, keys(3, 4)
    a = whole(size, before)
    for bit in (0, 31, 32, 63):
        b = whole(size, [before[0] ^ 1 << bit, *before[1:]])
        assert (a == b).mean() < 0.01
        assert abs(correlation(a, b)) < MOST
