"""The curve of a range test, and what was tried, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metronome.insight.rate_search.curve import Curve
from metronome.insight.rate_search.trials import Tried


def rate_picture(curve: Curve, tried: Sequence[Tried], rate: float | None, now: float) -> Any:
    """A figure: the losses of the range test, smooth and as they came; what was tried, and the rate that was found.

    Args:
        curve, tried: what was measured.
        rate: that was found, if any.
        now: that the training has.
    """
    from matplotlib.figure import Figure  # slow to import, and seldom needed

    drawn = Figure(figsize=(6.4, 4.2), dpi=100, layout="constrained")
    axes = drawn.add_subplot()
    smooth = curve.smoothed()
    axes.plot(curve.rates, curve.losses, ".", color="0.75", markersize=4, label="range test: a batch")
    axes.plot(curve.rates, smooth, color="tab:blue", label="range test: smoothed")
    good = [each for each in tried if np.isfinite(each.loss)]
    if good:
        axes.plot(
            [t.rate for t in good], [t.loss for t in good], "o-", color="tab:orange", label="some steps at one rate"
        )
    if rate is not None:
        axes.axvline(rate, color="tab:red", label=f"found: {rate:g}")
    axes.axvline(now, color="0.4", linestyle="--", linewidth=1, label=f"this run: {now:g}")
    begin = float(np.mean(smooth[: max(1, len(smooth) // 10)]))
    lowest = min([float(smooth.min()), *(t.loss for t in good)])
    room = max(begin - lowest, 1e-12)
    axes.set_ylim(lowest - 0.15 * room, begin + 0.8 * room)  # where it runs away nothing is to be read
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend(loc="best", fontsize=8)
    return drawn


def pixels(figure: Any) -> np.ndarray:
    """uint8, shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
