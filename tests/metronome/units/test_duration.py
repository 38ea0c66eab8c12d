from fractions import Fraction

import pytest

from metronome.units import Duration, InputError


@pytest.mark.parametrize(
    ("text", "value", "unit", "printed"),
    [
        ("20 epochs", 20, "epochs", "20 epochs"),
        ("1 epoch", 1, "epochs", "1 epoch"),
        ("0.5 epochs", Fraction(1, 2), "epochs", "0.5 epochs"),
        (".5 epochs", Fraction(1, 2), "epochs", "0.5 epochs"),
        ("1/3 epochs", Fraction(1, 3), "epochs", "1/3 epochs"),
        ("5epochs", 5, "epochs", "5 epochs"),
        ("500 steps", 500, "steps", "500 steps"),
        ("500steps", 500, "steps", "500 steps"),
        ("  500  STEPS ", 500, "steps", "500 steps"),
        ("+1 step", 1, "steps", "1 step"),
        ("0 steps", 0, "steps", "0 steps"),
        ("1.5e3 steps", 1500, "steps", "1,500 steps"),
        ("1e6 samples", 1_000_000, "samples", "1,000,000 samples"),
        ("1_000_000 samples", 1_000_000, "samples", "1,000,000 samples"),
        ("1,000,000 samples", 1_000_000, "samples", "1,000,000 samples"),
        ("1,234.5 epochs", Fraction(2469, 2), "epochs", "1,234.5 epochs"),
        ("1 sample", 1, "samples", "1 sample"),
        ("10%", 10, "percent", "10%"),
        ("10 %", 10, "percent", "10%"),
        ("10 percent", 10, "percent", "10%"),
        ("0.1%", Fraction(1, 10), "percent", "0.1%"),
        ("100%", 100, "percent", "100%"),
        ("30 s", 30, "seconds", "30 s"),
        ("30 seconds", 30, "seconds", "30 s"),
        ("0 s", 0, "seconds", "0 s"),
        ("0.5 s", Fraction(1, 2), "seconds", "0.5 s"),
        ("90 min", 5400, "seconds", "90 min"),
        ("1.5 h", 5400, "seconds", "90 min"),
        ("2 hours", 7200, "seconds", "2 h"),
        ("1 day", 86400, "seconds", "1 day"),
        ("36 h", 129600, "seconds", "36 h"),
        ("2 days", 172800, "seconds", "2 days"),
    ],
)
def test_read_and_printed_back(text, value, unit, printed):
    duration = Duration.parse(text)
    assert (duration.value, duration.unit) == (value, unit)
    assert str(duration) == printed
    assert Duration.parse(printed) == duration
    assert Duration.parse(duration) is duration


def test_value_is_exact():
    assert Duration.parse("10%").value * 30 / 100 == 3
    assert Duration.parse("0.1 epochs").value * 30 == 3
    assert Duration.parse("1e-3 epochs").value == Fraction(1, 1000)
    assert isinstance(Duration(3, "epochs").value, Fraction)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("500", "`500` has no unit; add one, e.g. `500 steps` or `500 epochs`"),
        (500, "`500 steps`"),
        (0.5, "has no unit"),
        (True, "not a duration"),
        (None, "not a duration"),
        ("", "not a duration"),
        ("epochs", "not a duration"),
        ("1,00 steps", "not a duration"),
        ("1__0 steps", "not a duration"),
        ("nan steps", "not a duration"),
        ("inf epochs", "not a duration"),
        ("1e999999999 steps", "not a duration"),
        ("1/0 epochs", "not a duration"),
        ("١ steps", "not a duration"),
        ("5 parsecs", "no unit `parsecs`; use one of epochs, steps, samples, %, s, min, h, days"),
        ("5 m", "no unit `m`"),
        ("500 batches", "a batch is one step; write `500 steps`"),
        ("500 iterations", "iterations depend on the hardware; write steps"),
        ("500iters", "iterations depend on the hardware"),
        ("-5 epochs", "`-5 epochs` is negative"),
        ("-1 s", "negative"),
        ("101%", "use at most `100%`"),
        ("1.5 steps", "`1.5 steps` cuts a step; use a whole number, e.g. `2 steps`"),
        ("2.5 samples", "e.g. `3 samples`"),
        ("5 epochs 500 steps", "`5 epochs 500 steps` is two durations; give one"),
        ("5 epochs, 500 steps", "two durations"),
        ("5 epochs and 500 steps", "two durations"),
        ("1h 30min", "two durations"),
        ("5 epochs\n500 steps", "two durations"),
    ],
)
def test_mistakes_are_told_in_one_line(given, told):
    with pytest.raises(InputError) as error:
        Duration.parse(given)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
