"""The arithmetic of a training on paper, beside what it must be."""

from math import inf

import pytest

from metronome.units import InputError
from metronome.units.paper.collectives import BUCKET, Links, all_gather, all_reduce, of_gradients, of_layers, of_shards
from metronome.units.paper.memory import Kept, Layout, Weight, gathered, largest_that_fits, resident
from metronome.units.paper.quantities import amount, number, whole
from metronome.units.paper.saves import Saving, seconds_to_save

LINKS = Links(1e9, 1e-6)


@pytest.mark.parametrize(
    ("given", "unit", "is_"),
    [
        ("80GB", "bytes", 8e10), ("1.5 TiB", "bytes", 1.5 * 2**40), ("8Gb", "bytes", 1e9), ("1e3 kB", "bytes", 1e6),
        ("400Gb/s", "bytes/s", 5e10), ("50GB/s", "bytes/s", 5e10), ("5us", "seconds", 5e-6), ("0.2s", "seconds", 0.2),
        ("90min", "seconds", 5400), ("2 days", "seconds", 172_800), ("400TFLOP/s", "flop/s", 4e14),
        ("1.5 PFLOPS", "flop/s", 1.5e15),
    ],
)  # fmt: skip
def test_amounts(given: str, unit: str, is_: float) -> None:
    assert amount("paper.key", given, unit) == pytest.approx(is_, rel=1e-15)


@pytest.mark.parametrize(
    ("given", "unit"),
    [("400", "bytes/s"), (400, "bytes/s"), ("400Gb", "bytes/s"), ("80GB/s", "bytes"), ("-1GB", "bytes"),
     ("5", "seconds"),
     ("5 weeks", "seconds"), ("nan GB", "bytes"), (None, "bytes"), ("80gb", "bytes"), ("4TB", "flop/s")],
)  # fmt: skip
def test_no_amounts(given: object, unit: str) -> None:
    with pytest.raises(InputError, match=r"paper.key=.* is no number of .* write e\.g\. "):
        amount("paper.key", given, unit)


def test_numbers() -> None:
    assert whole("paper.num_samples", "1e12", "samples", "1e12") == 10**12
    assert whole("paper.num_samples", 10**17 + 1, "samples", "1e12") == 10**17 + 1
    for wrong in ("0", "1.5", "many", True, -3):
        with pytest.raises(InputError, match=r"write e\.g\. paper\.num_samples=1e12"):
            whole("paper.num_samples", wrong, "samples", "1e12")
    assert number("paper.failures", 0, "number", "1e-5") == 0


# ---- memory -----------------------------------------------------------------------------------------------------


def test_what_a_device_keeps() -> None:
    """Two blocks of 10 x 10 and an embedding of 100 x 10, in float32, with two moments and a count each."""

    def adam(*shape: int, unit: int | None = None) -> Weight:
        return Weight(Kept(shape, 4), True, (Kept((), 4), Kept(shape, 4), Kept(shape, 4)), unit)

    weights = [adam(100, 10), adam(10, 10, unit=0), adam(10, 10, unit=1)]
    whole = resident(weights, 8, Layout(1, 1, False, 1))
    assert (whole.weights, whole.gradients, whole.optimizer, whole.exchange) == (4800, 4800, 9612, 0)
    assert whole.total == 4800 + 4800 + 9612 + 8
    copies = resident(weights, 8, Layout(4, 1, False, 2))
    assert (copies.weights, copies.exchange) == (4800, 4800)
    shares = resident(weights, 8, Layout(4, 1, True, 1))
    assert shares.weights == shares.gradients == 25 * 40 + 2 * 3 * 40  # rows: 100 / 4, and 10 / 4 rounded up
    assert shares.optimizer == 2 * shares.weights + 12
    assert shares.exchange == 2 * gathered(weights) == 2 * 4800
    # With gradients that are added up they are there whole.
    assert resident(weights, 8, Layout(4, 1, True, 2)).exchange == 2 * 4800
    frozen = [*weights[:2], Weight(Kept((10, 10), 4), trained=False, unit=1)]
    assert resident(frozen, 0, Layout(1, 1, False, 1)).gradients == 4400
    deep = [adam(10, 10, unit=number) for number in range(8)]
    assert gathered(deep) == 800
    assert resident(deep, 0, Layout(4, 1, True, 1)).exchange == 1600
    assert resident(deep, 0, Layout(4, 1, True, 2)).exchange == 800 + 3200
    assert resident(deep, 0, Layout(1, 2, False, 1)).weights == 1600


@pytest.mark.parametrize("start", [1, 3, 1000])
@pytest.mark.parametrize("room", [0, 107, 108, 1_000, 123_456, 10**9])
def test_the_largest_that_fits(room: int, start: int) -> None:
    asked: list[int] = []

    def needed(samples: int) -> float:
        asked.append(samples)
        return 101 + max(7 * samples, 3 * samples + 2_000)  # a line that gets steeper

    most = 10_000
    found = largest_that_fits(room, needed, most, start)
    best = max((n for n in range(1, most + 1) if needed(n) <= room), default=0)
    del asked[-most:]
    assert 0.98 * best <= found <= best
    assert len(asked) <= 12


# ---- what is sent -----------------------------------------------------------------------------------------------


def test_sums_and_gathers() -> None:
    assert all_reduce(10**9, 1, LINKS) == 0
    assert all_reduce(10**9, 1024, LINKS) == pytest.approx(2 * 1023 / 1024 + 2046e-6)
    assert all_reduce(10**9, 1024, Links(1e9, 1e-6, tree=True)) == pytest.approx(2 + 20e-6)
    assert all_gather(10**9, 1024, LINKS) * 2 == pytest.approx(all_reduce(10**9, 1024, LINKS))


def test_what_computing_hides() -> None:
    count = 40 * BUCKET
    alone = of_gradients(count, 8, LINKS, micro_batch=1.0, overlap=False)
    assert alone.waited == alone.seconds == pytest.approx(all_reduce(count, 8, LINKS, 40))
    hidden = of_gradients(count, 8, LINKS, micro_batch=1e3, overlap=True)
    assert hidden.waited == pytest.approx(alone.seconds / 40)  # the last bucket
    half = of_gradients(count, 8, LINKS, micro_batch=1.5, overlap=True)
    assert half.waited == pytest.approx(alone.seconds - 1.0 * 39 / 40)
    assert of_gradients(count, 1, LINKS, 1.0, overlap=True).waited == 0

    whole = of_shards(count, count, 8, LINKS, 1.0, overlap=False, accumulate=1, units=1)
    assert whole.seconds == whole.waited == pytest.approx(3 * 7 / 8 * count / 1e9 + 3 * 7e-6)
    cut = of_shards(count, count, 8, LINKS, 1.0, overlap=False, accumulate=4, units=1)
    assert cut.seconds == pytest.approx(9 * 7 / 8 * count / 1e9 + 9 * 7e-6)
    assert of_shards(count, count, 8, LINKS, 1e3, overlap=True, accumulate=4, units=50).waited < cut.seconds / 40
    assert of_shards(count, count, 1, LINKS, 1.0, overlap=True, accumulate=4, units=50).waited == 0
    layers = of_layers((10**6, 10**6), 8, LINKS, 3)
    assert layers.waited == pytest.approx(2 * 4 * 3 * all_reduce(10**6, 8, LINKS))


# ---- saves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0.01, 1.0, 60.0, 3_000.0])
@pytest.mark.parametrize("mean", [600.0, 86_400.0])
def test_the_best_time_between_saves(held: float, mean: float) -> None:
    """Daly's is within a hundredth of a percent of the best that a search finds, and Young's is not as good."""
    saving = Saving(held, 0.0, 300.0, mean)
    best = max(saving.goodput(mean * 1.005**-i) for i in range(3_000))
    if held < mean / 2:
        assert saving.goodput(saving.daly) > 0.9999 * best
        assert saving.goodput(saving.young) <= saving.goodput(saving.daly) + 1e-9
    assert saving.goodput(saving.best) <= 1.000001 * best
    for every in (saving.best, 3 * saving.best):
        assert saving.goodput(every) + sum(saving.losses(every).values()) == pytest.approx(1)


def test_ends_of_saving() -> None:
    never = Saving(60.0, 0.0, 300.0, inf)
    assert (never.best, never.goodput(540.0)) == (inf, 0.9)
    assert never.losses(540.0) == {"saves": pytest.approx(0.1), "restarts": 0.0, "again": 0.0}
    assert Saving(2e4, 0.0, 300.0, 1e4).daly == 1e4
    assert Saving(60.0, 0.0, 1.0, 10.0).goodput(1e6) == 0.0
    # A file that is long under way is as a restart that takes so much longer.
    late, sooner = Saving(5.0, 100.0, 300.0, 1e5), Saving(5.0, 0.0, 400.0, 1e5)
    assert late.goodput(700.0) == sooner.goodput(700.0)
    assert late.best == sooner.best == pytest.approx(996.67, abs=0.01)
    assert Saving(5.0, 5_000.0, 300.0, 1e5).best == 4_995  # one is written at a time
    assert seconds_to_save(1e12, 1024, 2e9, 1e11) == 10
