"""Durations, schedules and plans of every kind: each counts as a loop that takes one step after the other."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import count, groupby, islice
from math import floor
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronome.units import BatchSchedule, Duration, InputError, Plan

T = TypeVar("T")

some = settings(max_examples=150, deadline=None, derandomize=True)
many = settings(some, max_examples=400)

WORDS = {
    **dict.fromkeys(("epoch", "epochs"), ("epochs", 1)),
    **dict.fromkeys(("step", "steps"), ("steps", 1)),
    **dict.fromkeys(("sample", "samples"), ("samples", 1)),
    **dict.fromkeys(("%", "percent"), ("percent", 1)),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), ("seconds", 3600)),
    **dict.fromkeys(("d", "day", "days"), ("seconds", 86400)),
}
UNITS = ("epochs", "steps", "samples", "percent", "seconds")
# What numbers and units are made of, and what only looks like it. In a list, not a text: some are longer than a letter.
SCRAPS = [*"0123456789", *"_,.;+-/%&e ", *"\t\n\x1c\x85\u2028\x00", *"٣²½Ⅷ\u212a\u0130\ud800", "e99", "e-99", "1_000"]
SCRAPS += ["9" * 5000, "1,000", "and", "inf", "nan", "full", "true", "steps", "epochs", "samples", "min", "iterations"]
TEXTS = st.lists(st.sampled_from(SCRAPS), max_size=8).map("".join) | st.text(max_size=20)
PLAIN = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.binary(max_size=5) | TEXTS
JUNK = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(TEXTS, PLAIN, max_size=2)


def attempt(call: Callable[..., T], *given: Any, **flags: Any) -> T | None:
    """What a call returns, or None after an InputError of one line. Any other exception is a failure."""
    told: list[str] = []
    try:
        return call(*given, **flags)
    except InputError as error:
        told += str(error).splitlines()
    assert len(told) == 1, told
    return None


def refused(call: Callable[..., object], *given: Any, **flags: Any) -> None:
    """A call must end in an InputError of one line."""
    with pytest.raises(InputError) as error:
        call(*given, **flags)
    assert len(str(error.value).splitlines()) == 1


# ---- durations -----------------------------------------------------------------------------------------


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A number as one may type it, and its value, from its digits."""
    sign = draw(st.sampled_from(["", "", "+"]))
    digits = st.text("0123456789", min_size=1, max_size=9)
    if draw(st.integers(0, 5)) == 0:
        above, below = draw(st.integers(0, 999)), draw(st.integers(1, 99))
        return f"{sign}{above}/{below}", Fraction(above, below)
    whole, after = draw(digits), draw(st.just("") | st.just("") | digits)
    value = Fraction(int(whole + after), 10 ** len(after))
    kind = draw(st.sampled_from(["plain", "commas", "exponent", "exponent"]))
    if kind == "commas":
        whole = f"{int(whole):,}"
    else:
        whole = whole[0] + "".join(draw(st.sampled_from(["", "", "_"])) + digit for digit in whole[1:])
    text = whole + ("." + after if after or (kind != "commas" and draw(st.booleans())) else "")
    if kind == "exponent":
        exponent = draw(st.integers(-12, 30))
        value *= Fraction(10) ** exponent
        text += (
            draw(st.sampled_from("eE")) + (draw(st.sampled_from(["", "+"])) if exponent >= 0 else "") + str(exponent)
        )
    return sign + text, value


@many
@given(number=numbers(), word=st.sampled_from(sorted(WORDS)), space=st.sampled_from(["", " ", " \t "]), data=st.data())
def test_duration_is_read_as_written(number: tuple[str, Fraction], word: str, space: str, data: st.DataObject) -> None:
    digits, value = number
    unit, size = WORDS[word]
    text = digits + space + data.draw(st.sampled_from([word, word.upper(), word.title()]))
    if (unit in ("steps", "samples") and value.denominator > 1) or (unit == "percent" and value > 100):
        refused(Duration.parse, text)
        return
    duration = Duration.parse(text)
    assert (duration.value, duration.unit) == (value * size, unit)
    assert Duration.parse(f"  {str(duration).upper()}\n") == duration


@some
@given(above=st.integers(0, 10**40), below=st.integers(1, 10**9), unit=st.sampled_from(UNITS))
def test_duration_is_printed_to_be_read(above: int, below: int, unit: Any) -> None:
    value = Fraction(above, 1 if unit in ("steps", "samples") else below)
    duration = Duration(value % 100 if unit == "percent" else value, unit)
    assert Duration.parse(str(duration)) == duration


@many
@given(JUNK)
def test_any_text_is_a_duration_or_a_mistake(given: Any) -> None:
    duration = attempt(Duration.parse, given)
    if duration is not None:
        assert duration.value >= 0
        assert str(duration)
        assert len(str(given)) > 50 or Duration.parse(str(duration)) == duration


@pytest.mark.parametrize("shape", ["{} steps", "{}e99 steps", "1/{} epochs", "0.{} epochs", "{} parsecs"])
def test_thousands_of_digits_are_no_duration(shape: str) -> None:
    """Python refuses to read more than 4300 digits, and to print them."""
    for length in (4290, 5000):
        refused(Duration.parse, shape.format("9" * length))


# ---- schedules -----------------------------------------------------------------------------------------

FACTORS = st.builds(Fraction, st.integers(1, 12), st.integers(1, 12)) | st.sampled_from(
    [Fraction(101, 100), Fraction(99, 100), Fraction(11, 10), Fraction(1), Fraction(2)]
)


def walk(first: int, factor: Fraction, every: int, maximum: int | None) -> Iterator[tuple[int, bool]]:
    """The batch size of one epoch after the other, and whether it stays from there on."""
    exact = Fraction(first)
    for epoch in count(1):
        size = max(floor(exact + Fraction(1, 2)), 1)
        grown, shrunk = maximum is not None and exact >= maximum, exact < Fraction(3, 2)
        yield min(size, maximum or size), (factor >= 1 or shrunk) and (factor <= 1 or grown)
        if epoch % every == 0:
            exact *= factor


@many
@given(st.integers(1, 99), FACTORS, st.integers(1, 4), st.none() | st.integers(1, 300), st.integers(0, 30))
def test_schedule_against_a_walk(first: int, factor: Fraction, every: int, maximum: int | None, start: int) -> None:
    schedule = BatchSchedule(first, factor, every, maximum)
    found = [size for size, _ in islice(walk(first, factor, every, maximum), 31)]
    assert [schedule.at(epoch) for epoch in range(31)] == found
    assert all(1 <= size <= (maximum or size) for size in found)
    assert factor < 1 or found == sorted(found)
    assert factor > 1 or found == sorted(found, reverse=True)
    for epoch in (0, start):
        change = None
        for later, (size, final) in islice(enumerate(walk(first, factor, every, maximum)), epoch, None):
            change = later if size != found[epoch] else None
            if change or final:
                break
        assert schedule.next_change(epoch) == change
        assert epoch or schedule.is_constant == (change is None)


GROWTH = st.dictionaries(st.sampled_from(["factor", "every", "max"]), JUNK) | st.dictionaries(TEXTS, JUNK, max_size=2)
FACTORS_TYPED = st.floats() | st.fractions() | st.integers(-2, 9) | TEXTS
EVERY_TYPED = st.none() | st.integers(-1, 9) | st.integers(1, 10**40).map("{} epochs".format) | TEXTS
NEAR = st.fixed_dictionaries({"factor": FACTORS_TYPED}, optional={"every": EVERY_TYPED, "max": JUNK})


@many
@given(batch_size=JUNK | st.integers(1, 99), num_samples=st.integers(-1, 99), growth=st.none() | GROWTH | NEAR)
def test_any_growth_is_a_schedule_or_a_mistake(batch_size: Any, num_samples: int, growth: Any) -> None:
    schedule = attempt(BatchSchedule.of, batch_size, num_samples, growth)
    if schedule is None:
        return
    found = [schedule.at(epoch) for epoch in (0, 1, 2, 10, 10**3, 10**9, 10**18, 10**99)]
    assert found[0] == (num_samples if str(batch_size).strip().lower() == "full" else int(batch_size))
    assert all(1 <= size <= num_samples for size in found)
    change = schedule.next_change(0)
    assert (change is None) == schedule.is_constant
    assert change is None or schedule.at(change - 1) == found[0] != schedule.at(change)


def test_thousands_of_digits_are_no_batch() -> None:
    digits = "9" * 5000
    refused(BatchSchedule.of, digits, 9)
    refused(BatchSchedule.of, 1, 9, {"factor": 2, "max": digits})
    refused(BatchSchedule.of, 1, 9, {"factor": 2, "every": digits})
    refused(BatchSchedule.of, 1, 9, {"factor": digits})


def test_a_factor_that_cannot_be_counted_with() -> None:
    for factor in ("1e99999", "1e999999999", "1e-99999", "1." + "0" * 30 + "1", 1 + 2**-52, 1 - 2**-53):
        refused(BatchSchedule.of, 1, 9, {"factor": factor})
    for factor in (1.0, 1.000001, 0.999999, "3/2", 1e-05, 1e22):
        assert BatchSchedule.of(1, 9, {"factor": factor}).factor == Fraction(str(factor))


def test_far_beyond_the_maximum() -> None:
    """By floats alone: the exact integer would have 10^15 bits."""
    assert BatchSchedule(8, 2, maximum=157).at(10**15) == 157


# ---- plans ---------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What decides how many steps an epoch has, and into what they are cut."""

    num_samples: int
    batch_size: int
    factor: Fraction
    every: int
    maximum: int | None
    devices: int
    accumulate: int
    drop_last: bool
    limit: int | float | None

    def plan(self, budgets: Sequence[Duration]) -> Plan:
        return Plan.make(
            self.num_samples,
            BatchSchedule(self.batch_size, self.factor, self.every, self.maximum),
            devices=self.devices,
            accumulate_grad_batches=self.accumulate,
            drop_last=self.drop_last,
            limit_train_batches=self.limit,
            budgets=budgets,
        )


class Step(NamedTuple):
    """One step: its epoch, whether it is the last there, and what it takes."""

    epoch: int
    steps_in_epoch: int
    place: int
    batch_size: int
    samples: int
    iterations: int


class ImpossibleError(Exception):
    """An epoch that limit_train_batches, a part of one, leaves without a step."""


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    num_samples = draw(st.integers(1, 40))
    batch_size = draw(st.integers(1, num_samples))
    devices = draw(st.integers(1, 4))
    return Job(
        num_samples,
        batch_size,
        draw(st.sampled_from([Fraction(n) for n in ("1", "1", "2", "3/2", "11/10", "1/2", "9/10")])),
        draw(st.integers(1, 3)),
        draw(st.none() | st.integers(batch_size, 50)),
        devices,
        draw(st.integers(1, len(range(0, batch_size, devices)))),
        draw(st.booleans()),
        draw(st.none() | st.integers(1, 45) | st.sampled_from([0, 0.0, 0.5, 0.8, 0.99, 1.0]) | st.floats(0.4, 1)),
    )


COUNTED = st.one_of(
    st.builds(Duration, st.integers(0, 6), st.just("epochs")),
    st.builds(Duration, st.fractions(0, 6, max_denominator=12), st.just("epochs")),
    st.builds(Duration, st.integers(0, 120), st.just("steps")),
    st.builds(Duration, st.integers(0, 250), st.just("samples")),
)
TIMES = st.builds(Duration, st.integers(0, 9), st.just("seconds"))
BUDGETS = st.lists(COUNTED, min_size=1, max_size=3) | st.lists(COUNTED | TIMES, max_size=3)


def play(job: Job) -> Iterator[Step]:
    """The steps of a training without end, one after the other. Dealt one by one, n cards give the first of p players
    `len(range(0, n, p))`: the first device has the most samples, the first micro-batch too."""
    share = len(range(0, job.batch_size, job.devices))
    largest = len(range(0, share, job.accumulate))
    maximum = min(job.maximum or job.num_samples, job.num_samples)
    for epoch, (batch_size, _) in enumerate(walk(job.batch_size, job.factor, job.every, maximum)):
        pieces = job.accumulate
        while len(range(0, len(range(0, batch_size, job.devices)), pieces)) > largest:
            pieces += 1
        batches, left = [], job.num_samples
        while left >= batch_size or (left and not job.drop_last):
            batches.append(min(batch_size, left))
            left -= batches[-1]
        if isinstance(job.limit, float):
            in_full = len(batches)
            batches = batches[: int(in_full * job.limit)]
            if not batches and job.limit > 0:
                raise ImpossibleError
        elif job.limit is not None:
            batches = batches[: job.limit]
        if not batches:
            return
        for place, samples in enumerate(batches, 1):
            share = len(range(0, samples, job.devices))
            hands = sum(1 for first in range(pieces) if first < share)
            usual = len(range(0, len(range(0, batch_size, job.devices)), pieces))
            least = len(range(job.devices - 1, samples, job.devices))
            # A smaller last batch: fewer, as long as somebody would hold one card, and nobody comes to hold too many.
            while samples < batch_size and hands > 1 and least // hands < 2 and -(-share // (hands - 1)) <= usual:
                hands -= 1
            yield Step(epoch, len(batches), place, batch_size, samples, hands)


def play_until(job: Job, *budgets: Duration) -> list[Step]:
    """The steps taken until one of the budgets (all in epochs, steps or samples) is reached."""
    steps: list[Step] = []
    samples, epochs = 0, Fraction(0)
    playing = play(job)
    while True:
        reached = {"epochs": epochs, "steps": len(steps), "samples": samples}
        if any(reached[budget.unit] >= budget.value for budget in budgets):
            return steps
        step = next(playing, None)
        if step is None:
            return steps
        steps.append(step)
        samples += step.samples
        epochs = step.epoch + Fraction(step.place, step.steps_in_epoch)


@many
@given(jobs(), BUDGETS)
def test_plan_against_a_training_played_out(job: Job, budgets: list[Duration]) -> None:
    counting = [budget for budget in budgets if budget.unit != "seconds"]
    times = [budget for budget in budgets if budget.unit == "seconds"]
    known = bool(counting) or job.limit == 0
    # Where only time ends it, no epoch may be impossible; after 120 all of these batches are settled.
    until = counting if known else [Duration(120 if isinstance(job.limit, float) else 1, "epochs")]
    try:
        steps, first = play_until(job, *until), play_until(job, Duration(1, "epochs"))
    except ImpossibleError:
        refused(job.plan, budgets)
        return
    plan = job.plan(budgets)
    totals = (plan.epochs, plan.total_steps, plan.total_iterations, plan.total_samples)
    if known:
        iterations, samples = sum(step.iterations for step in steps), sum(step.samples for step in steps)
        assert totals == (len({step.epoch for step in steps}), len(steps), iterations, samples)
    else:
        assert totals == (None,) * 4
        steps = first
    epochs = [(number, list(taken)) for number, taken in groupby(steps, key=lambda step: step.epoch)]
    expected = [
        (number, taken[0].batch_size, len(taken), sum(s.iterations for s in taken), sum(s.samples for s in taken))
        for number, taken in epochs
    ]
    assert [(e.epoch, e.batch_size, e.steps, e.iterations, e.samples) for e in plan.per_epoch] == expected
    assert (plan.steps_per_epoch, plan.iterations_per_epoch) == (len(first), sum(step.iterations for step in first))
    assert plan.batch_size == job.batch_size
    assert plan.time_budget == min(times, key=lambda time: time.value, default=None)
    assert max(map(len, plan.text().splitlines())) <= 100
    assert plan.as_dict()["total_steps"] == plan.total_steps


@many
@given(jobs(), COUNTED)
def test_duration_in_steps_against_a_training_played_out(job: Job, asked: Duration) -> None:
    plan = attempt(job.plan, [])
    if plan is None:
        return
    try:
        expected = int(asked.value) if asked.unit == "steps" else len(play_until(job, asked))
    except ImpossibleError:
        refused(plan.steps, asked)
    else:
        assert plan.steps(asked) == plan.steps(str(asked)) == expected


@some
@given(st.integers(0, 99), st.integers(0, 200).map(lambda n: Fraction(n, 2)) | st.fractions(0, 100))
def test_percent_are_rounded_to_the_nearest_step(steps: int, percent: Fraction) -> None:
    plan, asked = Plan.make(10, BatchSchedule(3), budgets=[Duration(steps, "steps")]), Duration(percent, "percent")
    assert plan.steps(asked) == next(n for n in count() if steps * percent / 100 < n + Fraction(1, 2))
    for budgets in ([], [Duration(steps, "seconds")]):
        refused(Plan.make(10, BatchSchedule(3), budgets=budgets).steps, asked)
        refused(plan.steps, Duration(steps, "seconds"))


HOSTILE = st.none() | st.booleans() | st.integers(-1, 60) | st.integers(-(10**30), 10**30) | st.floats() | TEXTS
LENGTHS = ["1e15 epochs", "1e99 epochs", "1e99 steps", "1e99 samples", "1/3 epochs", "10%", "0.1 s", "0 steps", "1 h"]


@some
@given(
    num_samples=st.integers(-1, 40) | st.integers(1, 10**12),
    batch_size=st.integers(1, 50),
    factor=st.sampled_from([Fraction(1), Fraction(2), Fraction(3, 2), Fraction(9, 10)]),
    flags=st.fixed_dictionaries(
        {},
        optional={
            "devices": HOSTILE,
            "accumulate_grad_batches": HOSTILE,
            "drop_last": st.booleans(),
            "limit_train_batches": HOSTILE,
            "budgets": st.lists(st.sampled_from(LENGTHS).map(Duration.parse), max_size=2),
        },
    ),
)
def test_anything_is_a_plan_or_a_mistake(num_samples: int, batch_size: int, factor: Fraction, flags: Any) -> None:
    schedule = BatchSchedule(batch_size, factor)
    plan = attempt(Plan.make, num_samples, schedule, **flags)
    if plan is not None:
        assert plan.text()
        attempt(plan.steps, "1e15 epochs")
        attempt(plan.steps, "50%")


def test_an_impossible_epoch_is_no_matter_where_another_budget_ends_before() -> None:
    schedule, long, short = BatchSchedule(8, 2), Duration(10, "epochs"), Duration(19, "steps")
    for budgets in ([long, short], [short, long]):  # 10, 5, 2, 1, 1 steps, then none
        assert Plan.make(157, schedule, limit_train_batches=0.5, budgets=budgets).total_steps == 19
    refused(Plan.make, 157, schedule, limit_train_batches=0.5, budgets=[long, Duration(20, "steps")])
    refused(Plan.make, 157, schedule, limit_train_batches=0.5, budgets=[long, Duration(1, "seconds")])


def test_the_text_of_a_plan_almost_without_end() -> None:
    """A label of more columns than there are."""
    plan = Plan.make(100, BatchSchedule(8, 2, every=10**98), budgets=[Duration.parse("1e99 epochs")])
    assert f"epochs 0-{10**98 - 1:,} 100 / 8 = 13 steps" in " ".join(plan.text().split())
