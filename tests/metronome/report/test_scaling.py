"""The fit of steps by batch size, on data whose law is known; the figure of it."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metronome.report.answers import answer
from metronome.report.differences import differences
from metronome.report.figures.scaling import scaling_picture
from metronome.report.records import read_runs
from metronome.report.scaling import fit
from metronome.report.summary import summarize
from metronome.runs.asking import Asking, Target

SIZES = (1, 2, 8, 32, 128, 512, 1257)


@pytest.mark.parametrize(("s_min", "b_crit"), [(27, 12), (27, 22), (100, 0.5), (3, 5000)])
def test_the_law_is_found(s_min: float, b_crit: float) -> None:
    found = fit(SIZES, [s_min * (1 + b_crit / size) for size in SIZES])
    assert found is not None
    assert (found.s_min, found.b_crit) == pytest.approx((s_min, b_crit), rel=1e-4)
    assert found.misfit < 1e-4
    assert found.steps(b_crit) == pytest.approx(2 * s_min, rel=1e-4)
    assert found.e_min == pytest.approx(s_min * b_crit, rel=1e-4)


def test_with_noise_against_another_minimizer() -> None:
    """Within the error of the noise, and at the least sum of squares: no step away makes it less."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=len(SIZES))
    steps = [27 * (1 + 16 / size) * math.exp(e) for size, e in zip(SIZES, noise, strict=True)]
    found = fit(SIZES, steps)
    assert found is not None
    assert found.s_min == pytest.approx(27, rel=0.15)
    assert found.b_crit == pytest.approx(16, rel=0.3)

    def squares(s_min: float, b_crit: float) -> float:
        return sum(math.log(s / (s_min * (1 + b_crit / b))) ** 2 for b, s in zip(SIZES, steps, strict=True))

    least = squares(found.s_min, found.b_crit)
    for a, b in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99), (1.01, 0.99), (0.99, 1.01)):
        assert squares(a * found.s_min, b * found.b_crit) > least
    assert found.misfit == pytest.approx(math.expm1(math.sqrt(least / len(SIZES))))


def test_its_misfit_says_where_the_law_is_broken() -> None:
    steps = [27 * (1 + 16 / size) for size in SIZES]
    steps[3] *= 2
    found = fit(SIZES, steps)
    assert found is not None
    assert found.most_at == 32
    assert found.most > 0.5
    assert found.misfit > 0.2


def test_two_sizes_are_met_by_any_law() -> None:
    assert fit([8, 8, 32], [10, 11, 5]) is None


def falling(by: int, count: int = 20) -> list[tuple[int, float, float]]:
    """A val/loss that is 1 before so many steps, and 0.2 from then on, validated at each."""
    return [(i, 0.2 if i + 1 >= by else 1.0, 1000.0 + i) for i in range(count)]


def test_the_figure(make_run: Callable[..., Path], make_plan: Callable, tmp_path: Path) -> None:
    """S = 4 (1 + 4 / B), each at the best of two rates, the other of which takes two steps more."""
    for size in (1, 2, 4, 8, 16):
        for rate in (0.1, 0.2):
            steps = round(4 * (1 + 4 / size)) + (2 if rate == 0.1 else 0)
            values = [f"data.batch_size={size}", f"optimizer.lr={rate}"]
            config = {"data": {"batch_size": size}, "optimizer": {"lr": rate}}
            plan = make_plan(num_samples=16, epochs=[(size, 16 // size, 16)] * 30)
            make_run(f"{size}-{rate}", values, config=config, points={"val/loss": falling(steps, 30)}, the_plan=plan)
    runs, _ = read_runs([tmp_path / "runs"])
    asking = Asking(target=Target("val/loss", (0.5,), confirm=2), tune="optimizer.lr")
    found = answer(summarize(runs, differences(runs)), asking)
    assert [s.chosen.values["optimizer.lr"] for s in found.by_target[0.5] if s.chosen] == ["0.2"] * 5
    picture = scaling_picture(found)
    assert picture is not None
    assert picture.png.startswith(b"\x89PNG")
    assert "over 5 batch sizes of 1 runs" in picture.caption
    assert any("lies at the edge of what was tried" in note for note in found.notes)
