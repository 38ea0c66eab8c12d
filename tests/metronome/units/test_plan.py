import json
import random
from dataclasses import asdict
from fractions import Fraction
from math import ceil, floor
from typing import Literal

import pytest

from metronome.units import BatchSchedule, Duration, EpochPlan, InputError, Plan, accumulation_at
from metronome.units.epoch_series import MAX_EPOCHS_LISTED, epochs_of_rows


def make(num_samples, batch_size, *budgets, growth=None, **flags):
    schedule = BatchSchedule.of(batch_size, num_samples, growth)
    return Plan.make(num_samples, schedule, budgets=[Duration.parse(text) for text in budgets], **flags)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "epochs", "drop_last", "steps_per_epoch", "total_steps"),
    [
        (1000, 10, 5, False, 100, 500),
        (1000, 100, 5, False, 10, 50),
        (1000, 200, 1, False, 5, 5),
        (1000, 64, 10, False, 16, 160),  # 15 x 64 = 960, then one of 40
        (1000, 64, 10, True, 15, 150),
        (60_000, 64, 3, False, 938, 2814),  # 937.5
        (60_000, 64, 3, True, 937, 2811),
        (1000, "full", 7, False, 1, 7),
        (1000, 1, 2, True, 1000, 2000),
        (1, 1, 3, False, 1, 3),
    ],
)
def test_steps(num_samples, batch_size, epochs, drop_last, steps_per_epoch, total_steps):
    plan = make(num_samples, batch_size, f"{epochs} epochs", drop_last=drop_last)
    assert (plan.steps_per_epoch, plan.total_steps) == (steps_per_epoch, total_steps)
    assert plan.epochs == len(plan.per_epoch) == epochs


@pytest.mark.parametrize(
    ("batch_size", "devices", "accumulate", "micro_batch_size", "iterations"),
    [
        (100, 1, 1, 100, 10),
        (100, 1, 4, 25, 40),
        (100, 2, 4, 13, 40),  # 50 samples a device: 13 13 12 12
        (300, 1, 7, 43, 28),  # 3 x 300 + 100: 7 pieces each
        (333, 1, 7, 48, 22),  # 3 x 333 + a batch of 1: 3 x 7 + 1
        (333, 2, 7, 24, 22),
    ],
)
def test_iterations(batch_size, devices, accumulate, micro_batch_size, iterations):
    plan = make(1000, batch_size, "1 epoch", devices=devices, accumulate_grad_batches=accumulate)
    assert plan.micro_batch_size == micro_batch_size
    assert plan.iterations_per_epoch == plan.total_iterations == iterations
    assert plan.total_steps == ceil(1000 / batch_size)  # whatever the hardware


def test_growing_batch():
    plan = make(157, 8, "7 epochs", growth={"factor": 2}, accumulate_grad_batches=2)
    assert plan.per_epoch == (
        EpochPlan(0, 8, 20, 40, 157),  # 19 x 8 + 5
        EpochPlan(1, 16, 10, 40, 157),  # 4 micro-batches of 4
        EpochPlan(2, 32, 5, 40, 157),  # 4 x 32 + 29
        EpochPlan(3, 64, 3, 46, 157),  # 16 + 16 + 14 for the last 29, none of one sample
        EpochPlan(4, 128, 2, 46, 157),  # 32 + 14
        EpochPlan(5, 157, 1, 40, 157),  # 157 / 4
        EpochPlan(6, 157, 1, 40, 157),
    )
    assert plan.total_steps == 20 + 10 + 5 + 3 + 2 + 1 + 1
    assert plan.micro_batch_size == 4


@pytest.mark.parametrize(
    ("accumulate", "first", "now", "devices", "pieces"),
    [
        (2, 8, 8, 1, 2),
        (2, 8, 4, 1, 2),
        (2, 8, 9, 1, 3),
        (2, 8, 16, 1, 4),
        (2, 8, 16, 2, 4),
        (3, 10, 40, 2, 10),
    ],
)
def test_accumulation_grows_along(accumulate, first, now, devices, pieces):
    assert accumulation_at(accumulate, BatchSchedule(first, factor=2), now, devices) == pieces
    alone = BatchSchedule(first, factor=2, accumulate=False)
    assert accumulation_at(accumulate, alone, now, devices) == accumulate


def test_micro_batches_that_grow():
    """8, 16, ..., 128 samples cut in two: fewer iterations, larger pieces."""
    schedule = BatchSchedule.of(8, 157, {"factor": 2, "accumulate": False})
    plan = Plan.make(157, schedule, accumulate_grad_batches=2, budgets=[Duration.parse("5 epochs")])
    assert [(epoch.steps, epoch.iterations) for epoch in plan.per_epoch] == [
        (20, 40),
        (10, 20),
        (5, 10),
        (3, 6),
        (2, 4),
    ]
    assert plan.micro_batch_size == 64  # 128 / 2
    assert "times 2 every epoch; no micro-batch above 64 samples" in plan.text()
    cut_for_the_last = Plan.make(157, schedule, accumulate_grad_batches=64, budgets=[Duration.parse("5 epochs")])
    assert cut_for_the_last.micro_batch_size == 2  # 128 / 64
    assert cut_for_the_last.per_epoch[0].iterations == 19 * 8 + 5  # one sample each, also of the last batch of 5
    endless = Plan.make(157, schedule, accumulate_grad_batches=2)
    assert endless.micro_batch_size == 79  # 157 / 2


@pytest.mark.parametrize(
    ("budgets", "epochs", "steps", "samples"),  # 1000 / 64: 16 steps, the last of 40
    [
        (["0 epochs"], 0, 0, 0),
        (["0 steps"], 0, 0, 0),
        (["1.5 epochs"], 2, 24, 1000 + 8 * 64),
        (["0.01 epochs"], 1, 1, 64),
        (["16 steps"], 1, 16, 1000),
        (["17 steps"], 2, 17, 1064),
        (["1000 samples"], 1, 16, 1000),
        (["960 samples"], 1, 15, 960),
        (["961 samples"], 1, 16, 1000),
        (["1001 samples"], 2, 17, 1064),
        (["2 epochs", "20 steps"], 2, 20, 1000 + 4 * 64),
        (["2 epochs", "20 steps", "100 samples"], 1, 2, 128),
        (["2 epochs", "90 min"], 2, 32, 2000),
    ],
)
def test_budget(budgets, epochs, steps, samples):
    plan = make(1000, 64, *budgets)
    assert (plan.epochs, plan.total_steps, plan.total_samples) == (epochs, steps, samples)
    assert len(plan.per_epoch) == epochs
    assert plan.steps_per_epoch == 16


@pytest.mark.parametrize("budgets", [[], ["90 min"]])
def test_unknown_total(budgets):
    plan = make(1000, 64, *budgets)
    assert (plan.epochs, plan.total_steps, plan.total_iterations, plan.total_samples) == (None,) * 4
    assert plan.per_epoch == (EpochPlan(0, 64, 16, 16, 1000),)


@pytest.mark.parametrize(
    ("limit", "steps", "samples"),
    [(None, 16, 1000), (1.0, 16, 1000), (0.5, 8, 512), (0.99, 15, 960), (3, 3, 192), (0, 0, 0)],
)
def test_limit(limit, steps, samples):
    plan = make(1000, 64, "1 epoch", limit_train_batches=limit)
    assert (plan.steps_per_epoch, plan.total_steps, plan.total_samples) == (steps, steps, samples)


def test_limit_of_nothing_ends_whatever_the_budget():
    plan = make(1000, 64, "500 steps", limit_train_batches=0)
    assert (plan.epochs, plan.total_steps, plan.per_epoch) == (0, 0, ())
    assert plan.steps("3 epochs") == plan.steps("3 samples") == 0


def test_limit_counts_only_in_epochs_that_are_run():
    flags = {"growth": {"factor": 2}, "limit_train_batches": 0.5}  # 20, 10, 5, 3, 2, 1 steps
    assert make(157, 8, "5 epochs", **flags).total_steps == 10 + 5 + 2 + 1 + 1
    assert make(157, 8, "19 steps", **flags).epochs == 5
    assert make(157, 8, "5 epochs", **flags).text()
    for budgets in (["6 epochs"], ["20 steps"], ["90 min"], []):
        with pytest.raises(InputError, match=r"trainer\.limit_train_batches=0\.5 leaves no step"):
            make(157, 8, *budgets, **flags)


def test_any_budget_is_fast_and_exact():
    huge = make(10, 3, "1_000_000_000 steps")  # 4 steps an epoch
    assert (huge.epochs, huge.total_samples) == (250_000_000, 2_500_000_000)
    assert len(huge.per_epoch) == MAX_EPOCHS_LISTED
    assert huge.per_epoch[-1] == EpochPlan(9999, 3, 4, 4, 10)
    slow = make(60_000, 64, "1_000_000_001 steps", growth={"factor": 1.0001})
    assert slow.total_steps == 1_000_000_001
    assert slow.steps(f"{slow.total_samples} samples") == slow.total_steps
    late = make(100, 1, "10_000_001 epochs", growth={"factor": 2, "every": 10_000_000})
    assert late.total_steps == 100 * 10_000_000 + 50


@pytest.mark.parametrize(
    ("duration", "steps"),  # 157 samples, 8 x2: 20 10 5 3 2 1 1 steps, 42 in seven epochs
    [
        ("5 steps", 5),
        ("0 epochs", 0),
        ("1 epoch", 20),
        ("1.5 epochs", 25),
        ("2.1 epochs", 31),
        ("3 epochs", 35),
        ("9 epochs", 44),  # beyond the end: one step an epoch goes on
        ("157 samples", 20),
        ("158 samples", 21),
        ("10%", 4),  # 4.2
        ("25%", 11),  # 10.5
        ("100%", 42),
    ],
)
def test_duration_in_steps(duration, steps):
    plan = make(157, 8, "7 epochs", growth={"factor": 2})
    assert plan.steps(duration) == plan.steps(Duration.parse(duration)) == steps


def test_ten_percent_of_thirty_is_three():
    assert make(30, 1, "30 steps").steps("10%") == 3


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: make(1000, 64).steps("10%"),
            "`10%` needs a total: give the budget in epochs, steps or samples",
        ),
        (lambda: make(1000, 64).steps("5 min"), "`5 min` is not known in steps"),
        (lambda: make(1000, 64).steps("5"), "has no unit"),
        (lambda: make(1000, 64, "10%"), "write e.g. budget='10 epochs'"),
        (lambda: make(1000, 64, devices=0), "trainer.devices=0"),
        (lambda: make(1000, 64, accumulate_grad_batches=0), "trainer.accumulate_grad_batches=0"),
        (lambda: make(1000, 64, accumulate_grad_batches=2.0), "trainer.accumulate_grad_batches=2.0"),
        (lambda: make(1000, 64, accumulate_grad_batches=True), "trainer.accumulate_grad_batches=True"),
        (
            lambda: make(1000, 16, devices=2, accumulate_grad_batches=9),
            "trainer.accumulate_grad_batches=9 cuts each device's 8 samples of a batch (data.batch_size=16 on"
            " 2 devices) into more pieces than it has samples; use at most 8",
        ),
        (
            lambda: make(1000, 8, accumulate_grad_batches=9),
            "a batch of 8 samples (data.batch_size=8) into more pieces than it has samples; use at most 8",
        ),
        (lambda: make(1000, 64, limit_train_batches=-1), "trainer.limit_train_batches=-1"),
        (lambda: make(1000, 64, limit_train_batches=1.5), "trainer.limit_train_batches=1.5"),
        (lambda: make(1000, 64, limit_train_batches=True), "trainer.limit_train_batches=True"),
        (lambda: make(1000, 64, limit_train_batches=0.01), "trainer.limit_train_batches=0.01 leaves no step"),
        (lambda: Plan.make(1000, BatchSchedule(2000)), "larger than the 1,000 training samples"),
        (lambda: Plan.make(0, BatchSchedule(1)), "the training data set is empty"),
    ],
)
def test_mistakes_are_told_in_one_line(call, told):
    with pytest.raises(InputError) as error:
        call()
    assert told.lower() in str(error.value).lower()
    assert "\n" not in str(error.value)


def simulate(num_samples, first, factor, every, maximum, devices, accumulate, drop_last, limit, budget):
    """The training played out sample by sample: the epochs of `Plan.per_epoch`, as tuples."""
    number, unit = budget
    all_steps = all_samples = 0
    micro_batch_size = max(deal(max(deal(first, devices)), accumulate))
    epochs = []
    while True:
        exact = first * factor ** (len(epochs) // every)
        batch_size = min(max(1, floor(exact + Fraction(1, 2))), maximum, num_samples)
        batches, waiting = [], 0
        for _ in range(num_samples):
            waiting += 1
            if waiting == batch_size:
                batches, waiting = [*batches, waiting], 0
        if waiting and not drop_last:
            batches.append(waiting)
        if isinstance(limit, float):
            limit_here = int(len(batches) * limit)
            if limit_here == 0:
                return None
            batches = batches[:limit_here]
        elif limit is not None:
            batches = batches[:limit]
        pieces = accumulate
        while batch_size > first and max(deal(max(deal(batch_size, devices)), pieces)) > micro_batch_size:
            pieces += 1
        done = [0, 0, 0]
        for position in range(len(batches) + 1):
            over = {
                "epochs": len(epochs) + Fraction(position, len(batches)) >= number,
                "steps": all_steps >= number,
                "samples": all_samples >= number,
            }[unit]
            if over:
                if position:
                    epochs.append((len(epochs), batch_size, *done))
                return epochs
            if position < len(batches):
                per_device = [
                    sum(1 for size in deal(share, pieces) if size) for share in deal(batches[position], devices)
                ]
                iterations, usual = max(per_device), max(deal(max(deal(batch_size, devices)), pieces))
                hands = deal(batches[position], devices)
                # A smaller last batch in fewer, as long as one card would be alone, and no hand becomes too large.
                while (
                    batches[position] < batch_size
                    and iterations > 1
                    and min(deal(min(hands), iterations)) < 2
                    and max(deal(max(hands), iterations - 1)) <= usual
                ):
                    iterations -= 1
                done = [done[0] + 1, done[1] + iterations, done[2] + batches[position]]
                all_steps, all_samples = all_steps + 1, all_samples + batches[position]
        epochs.append((len(epochs), batch_size, *done))


def deal(count, parts):
    """Sizes of the hands when `count` cards are dealt to `parts` players one by one."""
    hands = [0] * parts
    for card in range(count):
        hands[card % parts] += 1
    return hands


def test_against_a_training_played_out():
    draw, compared = random.Random(0), 0
    for _ in range(600):
        num_samples = draw.randint(1, 60)
        first = draw.randint(1, num_samples)
        devices = draw.randint(1, 4)
        accumulate = draw.randint(1, max(deal(first, devices)))
        factor = draw.choice([Fraction(1), Fraction(2), Fraction(3, 2), Fraction(1, 2), Fraction(11, 10)])
        every, maximum = draw.randint(1, 3), draw.randint(first, 70)
        drop_last, limit = draw.random() < 0.4, draw.choice([None, None, 1.0, 0.5, 0.8, 1, 3, 100])
        units: list[Literal["epochs", "steps", "samples"]] = ["epochs", "steps", "samples"]
        unit = draw.choice(units)
        number = Fraction(draw.randint(0, 24), 4) if unit == "epochs" else Fraction(draw.randint(0, 250))
        expected = simulate(
            num_samples,
            first,
            factor,
            every,
            maximum,
            devices,
            accumulate,
            drop_last,
            limit,
            (number, unit),
        )
        schedule, budget = BatchSchedule(first, factor, every, maximum), Duration(number, unit)
        flags = {"devices": devices, "accumulate_grad_batches": accumulate, "drop_last": drop_last}
        flags |= {"limit_train_batches": limit, "budgets": [budget]}
        if expected is None:
            with pytest.raises(InputError, match="leaves no step"):
                Plan.make(num_samples, schedule, **flags)
            continue
        plan = Plan.make(num_samples, schedule, **flags)
        found = [(e.epoch, e.batch_size, e.steps, e.iterations, e.samples) for e in plan.per_epoch]
        assert found == expected, (num_samples, schedule, flags)
        totals = (plan.total_steps, plan.total_iterations, plan.total_samples)
        assert totals == tuple(sum(epoch[i] for epoch in expected) for i in (2, 3, 4))
        assert plan.epochs == len(expected)
        assert plan.steps(budget) == plan.total_steps
        assert max(map(len, plan.text().splitlines())) <= 100
        compared += 1
    assert compared > 400


def test_as_dict():
    made = make(1000, 64, "17 steps", accumulate_grad_batches=2).as_dict()
    assert json.loads(json.dumps(made)) == made
    assert list(made.items()) == [
        ("num_samples", 1000),
        ("batch_size", 64),
        ("devices", 1),
        ("accumulate_grad_batches", 2),
        ("micro_batch_size", 32),
        ("drop_last", False),
        ("epochs", 2),
        ("steps_per_epoch", 16),
        ("iterations_per_epoch", 32),
        ("total_steps", 17),
        ("total_iterations", 34),
        ("total_samples", 1064),
        (
            "per_epoch",
            [
                {"epochs": [0, 0], "batch_size": 64, "steps": 16, "iterations": 32, "samples": 1000},
                {"epochs": [1, 1], "batch_size": 64, "steps": 1, "iterations": 2, "samples": 64},
            ],
        ),
    ]


@pytest.mark.parametrize(
    ("growth", "budget", "rows"),
    [
        ({}, "200 epochs", [([0, 199], 64)]),
        ({}, "199.5 epochs", [([0, 198], 64), ([199, 199], 64)]),  # the last is cut short
        ({"factor": 2, "every": 5, "maximum": 256}, "200 epochs", [([0, 4], 64), ([5, 9], 128), ([10, 199], 256)]),
    ],
)
def test_equal_epochs_are_a_row(growth, budget, rows):
    plan = Plan.make(1000, BatchSchedule(64, **growth), budgets=[Duration.parse(budget)])
    listed = plan.as_dict()["per_epoch"]
    assert [(row["epochs"], row["batch_size"]) for row in listed] == rows
    assert tuple(epochs_of_rows(json.loads(json.dumps(listed)))) == plan.per_epoch
    assert tuple(epochs_of_rows([asdict(epoch) for epoch in plan.per_epoch])) == plan.per_epoch  # as it once was


def test_text():
    assert make(1257, 64, "15 epochs", accumulate_grad_batches=4).text().splitlines() == [
        "samples    1,257 in an epoch",
        "batch      64 = 1 device x 4 micro-batches of 16",
        "epoch      1,257 / 64 = 20 steps (the last of 41 samples) = 80 iterations",
        "total      15 epochs = 300 steps = 1,200 iterations = 18,855 samples",
    ]


def test_text_of_a_growing_batch():
    text = make(157, 60, "5 epochs", "1 h", growth={"factor": 2}, drop_last=True).text()
    assert text.splitlines() == [
        "samples     157 in an epoch",
        "batch       60 = 1 device x 1 micro-batch of 60",
        "            times 2 every epoch; no micro-batch above 60 samples",
        "epoch 0     157 / 60 = 2 steps = 2 iterations",
        "            37 samples left out of each epoch by drop_last",
        "epoch 1     157 / 120 = 1 step = 2 iterations",
        "            37 samples left out of each epoch by drop_last",
        "epochs 2-4  157 / 157 = 1 step = 3 iterations",
        "            the batch is capped at all 157 samples",
        "total       5 epochs = 6 steps = 13 iterations = 711 samples",
        "            or fewer: ends after 1 h at the latest",
    ]


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (make(57, 33, devices=2, accumulate_grad_batches=3), "33 = 2 devices x 3 micro-batches of 5 or 6"),
        (make(57, 32, accumulate_grad_batches=5), "32 = 1 device x 5 micro-batches of 6 or 7"),
        (make(57, 5, devices=2, accumulate_grad_batches=3), "5 = 2 devices x up to 3 micro-batches of 1"),
        (make(57, 1, devices=2), "1 = 2 devices x up to 1 micro-batch of 1"),
        (make(60_057, 100, drop_last=True), "57 samples left out of each epoch by drop_last"),
        (make(1000, 64, limit_train_batches=3), "16 steps, cut to 3 by limit_train_batches = 3 iterations"),
        (make(1000, 64, "90 min"), "ends after 90 min: the number of steps is not known"),
        (make(1000, 64), "no end: the number of steps is not known"),
        (make(1000, 64, "1.5 epochs"), "the last epoch is cut short: 8 of 16 steps"),
        (make(157, 8, growth={"factor": 2}), "epochs 5-  157 / 157 = 1 step"),
        (make(9999, 8, "99 epochs", growth={"factor": 1.1}), "and so on from epoch 12"),
    ],
)
def test_text_says(plan, line):
    assert line in plan.text()
    assert max(map(len, plan.text().splitlines())) <= 100
