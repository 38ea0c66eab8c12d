"""Learning rates for other batch sizes, worked by hand."""

import numpy as np
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
    ("batch_size", "base", "noise_scale", "expected"),
    [
        (64, 64, 17.0, 0.1),
        (256, 64, 64.0, 0.16),  # 0.1 x (1 + 1) / (1 + 1/4)
        (16, 64, 64, 0.04),  # 0.1 x (1 + 1) / (1 + 4)
        (1, 32, 3_200_000, 0.1 / 32),  # far below the noise scale as the linear rule
        (100_000, 32, 32, 0.2),  # far above it the largest rate
    ],
)
def test_rates_by_the_noise_scale(batch_size: int, base: int, noise_scale: float, expected: float) -> None:
    assert scaled_rate(0.1, "noise", batch_size, base, noise_scale) == pytest.approx(expected, rel=1e-3)


def best_rate(random: np.random.Generator, batch_size: int, draws: int) -> float:
    """The rate whose step from |delta|^2 = 1 has the least loss afterwards, of the mean of (x.w - y)^2 with x ~ N(0, I)
    of 10 dimensions and noise of 0.1: by golden section, of the same random batches for every rate."""
    delta = np.eye(10)[0]
    gradients = np.empty((draws, 10))
    for part in np.array_split(np.arange(draws), max(1, draws * batch_size // 100_000)):
        x = random.standard_normal((len(part), batch_size, 10))
        error = x @ delta - 0.1 * random.standard_normal((len(part), batch_size))
        gradients[part] = 2 * np.einsum("dbi,db->di", x, error) / batch_size
    ratio, low, high = (5**0.5 - 1) / 2, 0.0, 1.0

    def loss(rate: float) -> float:
        return float(((delta - rate * gradients) ** 2).sum(1).mean()) + 0.1**2

    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return (low + high) / 2


def test_the_best_rates_of_a_linear_regression() -> None:
    """McCandlish et al. (2018), equation 2.6: the noise scale is 10 + 1 + 10 x 0.01 = 11.1, the largest rate 1/2.
    Neither other rule has these rates from that of 16 samples."""
    random = np.random.default_rng(0)
    for size, expected, draws in ((1, 0.0413, 100_000), (4, 0.1325, 25_000), (16, 0.2952, 8_000), (64, 0.4261, 2_500),
                                  (256, 0.4792, 600)):  # fmt: skip
        assert best_rate(random, size, draws) == pytest.approx(expected, rel=0.02)
        assert scaled_rate(0.2952, "noise", size, 16, 11.1) == pytest.approx(expected, rel=0.002)
        for rule in ("linear", "sqrt"):
            if size != 16:
                assert scaled_rate(0.2952, rule, size, 16) != pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("lr", "rule", "base", "message"),
    [
        (0.1, "square", 64, "optimizer.scale_lr=square is not known; use one of none, linear, sqrt, noise"),
        (0.1, "linear", None, "optimizer.scale_lr=linear scales from a batch size for which optimizer.lr is right"),
        (0.1, "noise", 64, "optimizer.scale_lr=noise goes by the noise scale of the gradient; give it in samples"),
        (0.1, "noise", None, "optimizer.scale_lr=noise scales from a batch size for which optimizer.lr is right"),
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


@pytest.mark.parametrize("noise_scale", [0, -1.0, float("nan"), float("inf"), "17x", True])
def test_a_noise_scale_that_is_none(noise_scale: float) -> None:
    with pytest.raises(InputError, match=r"^optimizer.noise_scale=.* is not a number of samples above 0$"):
        scaled_rate(0.1, "noise", 256, 32, noise_scale)
