"""The estimates of the noise scale: against the source's formulas, and against gradients whose noise is known."""

import numpy as np
import pytest

from metronome.insight.noise_scale.estimate import averaged, estimates, noise

DIMENSIONS, SIGMA = 10, 0.1


def gradients(random: np.random.Generator, delta: np.ndarray, sizes: tuple[int, ...], batches: int) -> np.ndarray:
    """Of the mean of (x.w - y)^2 over pieces of these sizes: shape (batches, pieces, dimensions). x ~ N(0, I),
    y = x.w* + noise, delta = w - w*, so the gradient of a sample is 2 x (x.delta - noise)."""
    made = []
    for size in sizes:
        x = random.standard_normal((batches, size, DIMENSIONS))
        error = x @ delta - SIGMA * random.standard_normal((batches, size))
        made.append(2 * (x * error[..., None]).mean(1))
    return np.stack(made, 1)


def of_batches(made: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The estimates of each batch."""
    parts = np.array(sizes) / sum(sizes)
    whole = np.einsum("k,bkd->bd", parts, made)
    return estimates(
        ((made**2).sum(-1) * parts).sum(-1), (whole**2).sum(-1), sum(sizes), len(sizes)
    )  # fmt: skip


def test_equal_pieces_are_the_formulas_of_the_source():
    """McCandlish et al. (2018), equations A.2 and A.3, with b = 8 and B = 32."""
    small, large, b, batch = 5.0, 2.0, 8, 32
    squared, trace = estimates(small, large, batch, batch // b)
    assert squared == pytest.approx((batch * large - b * small) / (batch - b))
    assert trace == pytest.approx((small - large) / (1 / b - 1 / batch))


@pytest.mark.parametrize(("squared_distance", "expected"), [(4.0, 11.025), (1.0, 11.1), (0.01, 21.0)])
def test_a_linear_regression(squared_distance: float, expected: float) -> None:
    """(d + 1) + d sigma^2/|delta|^2: within 3 % from 2,000 pairs of sizes, where the mean of ratios is not."""
    assert expected == pytest.approx(DIMENSIONS + 1 + DIMENSIONS * SIGMA**2 / squared_distance)
    delta = np.zeros(DIMENSIONS)
    delta[0] = np.sqrt(squared_distance)
    sizes = (32,) * 2
    squared, trace = of_batches(gradients(np.random.default_rng(0), delta, sizes, 2_000), sizes)
    assert trace.mean() / squared.mean() == pytest.approx(expected, rel=0.03)
    assert abs((trace / squared).mean() / expected - 1) > 0.03


@pytest.mark.parametrize("sizes", [(1, 7), (8, 8, 8, 1), (3, 5), (2, 2), (16, 15, 15)])
def test_pieces_of_any_sizes_are_unbiased(sizes: tuple[int, ...]) -> None:
    """Each estimate's mean is the true value, within four standard errors."""
    delta = np.zeros(DIMENSIONS)
    delta[0] = 1.0
    truth = 4.0, 4 * ((DIMENSIONS + 1) + DIMENSIONS * SIGMA**2)  # |2 delta|^2 = 4; tr = 4 x 11.1
    batches = 20_000
    found = of_batches(gradients(np.random.default_rng(1), delta, sizes, batches), sizes)
    for values, true in zip(found, truth, strict=True):
        assert abs(values.mean() - true) < 4 * values.std() / np.sqrt(batches)
    # Pieces taken for equal are not: what would be seen of a wrong formula.
    if sizes == (1, 7):
        made = gradients(np.random.default_rng(1), delta, sizes, batches)
        whole = made[:, 0] / 8 + made[:, 1] * 7 / 8
        wrong = estimates((made**2).sum(-1).mean(-1), (whole**2).sum(-1), 8, 2)[1]
        assert wrong.mean() > 1.5 * truth[1]


def test_averages_are_corrected_for_their_beginning():
    sums = np.zeros(3)
    assert noise(sums.tolist()) == {}
    for squared, trace in ((2.0, 30.0), (4.0, 10.0)):
        sums = averaged(sums, np.array([squared, trace, 1.0]), keep=0.75)
    # weights 0.75 and 1, of 1.75: (0.75 x 2 + 4) / 1.75, (0.75 x 30 + 10) / 1.75, and their ratio
    expected = {"noise/gradient_squared": 5.5 / 1.75, "noise/trace": 32.5 / 1.75, "noise/scale": 32.5 / 5.5}
    assert noise(sums.tolist()) == pytest.approx(expected)
    assert "noise/scale" not in noise([-0.1, 3.0, 1.0])  # lost in its noise
