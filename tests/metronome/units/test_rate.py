"""Learning rates for other batch sizes, worked by hand."""

import pytest

from metronome.units import InputError, scaled_rate


@pytest.mark.parametrize(
    ("lr", "rule", "batch_size", "base", "expected"),
    [
        (0.1, "none", 256, None, 0.1),
        (0.1, None, 256, 64, 0.1),
        (0.1, "linear", 256, 64, 0.4),
        (0.1, "linear", 16, 64, 0.025),
        (0.1, "linear", 64, 64, 0.1),
        (0.1, "sqrt", 256, 64, 0.2),
        (0.1, "sqrt", 16, 64, 0.05),
        (0.1, "sqrt", 32, 64, 0.0707107),  # 0.1 / sqrt(2)
        (1, "linear", 1, 4, 0.25),
        # Goyal et al. (2017): 0.1 for 256 samples, 3.2 for 8,192
        (0.1, "linear", 8192, 256, 3.2),
    ],
)
def test_rates(lr: float, rule: str | None, batch_size: int, base: int | None, expected: float) -> None:
    assert scaled_rate(lr, rule, batch_size, base) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("lr", "rule", "base", "message"),
    [
        (0.1, "square", 64, "optimizer.scale_lr=square is not known; use one of none, linear, sqrt"),
        (0.1, "linear", None, "optimizer.scale_lr=linear scales from a batch size for which optimizer.lr is right"),
        (0.1, "linear", 0, "optimizer.base_batch_size=0 is not a number of samples from 1 up"),
        (0.1, "none", 6.4, "optimizer.base_batch_size=6.4 is not a number of samples from 1 up"),
        ("0.1x", "sqrt", 64, "optimizer.lr='0.1x' is no number that could be scaled"),
        (float("nan"), "sqrt", 64, "optimizer.lr=nan is no number that could be scaled"),
    ],
)
def test_what_is_refused(lr: float, rule: str, base: int | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        scaled_rate(lr, rule, 256, base)
    assert str(error.value).startswith(message)
