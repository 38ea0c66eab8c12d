"""A landscape with two minima, one deeper: does the noise of small batches leave the shallow one?"""

from typing import Any

import torch
from torch import Tensor

from metronome.units import InputError, check_number
from project.models.walkers import Walkers


class DoubleWell(Walkers):
    """Walkers in one dimension on (x^2 - 1)^2 / 4 - tilt x, all of them starting at the shallow minimum near -1.

    Logs `loss`, the mean height, and `escaped`, the share of walkers that stand beyond the top between the two minima;
    both as `val/...` and `test/...`.

    Args:
        num_walkers: walkers.
        tilt: how much deeper the minimum near +1 is, about 2 tilt; from 0 to 0.38, where the shallow one is no more.
        noise: standard deviation of the noise in the gradient of one sample.
        options: those of `Walkers`.
    """

    def __init__(self, num_walkers: int = 1_000, tilt: float = 0.12, noise: float = 5.25, **options: Any) -> None:
        check_number("model.num_walkers", num_walkers, "walkers")
        if not 0 <= tilt <= 0.38:
            raise InputError(f"model.tilt={tilt!r} is not a number from 0 to 0.38")
        if not noise >= 0:
            raise InputError(f"model.noise={noise!r} is not a standard deviation from 0 up")
        self.tilt = tilt
        # Where the slope, x^3 - x - tilt, is 0: the roots are the eigenvalues of its companion matrix.
        companion = torch.tensor([[0, 1, tilt], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
        shallow, top, _ = torch.linalg.eigvals(companion).real.sort().values.tolist()
        super().__init__(torch.full((num_walkers, 1), shallow), torch.tensor([float(noise)]), **options)
        self.top = top

    def heights(self, weights: Tensor) -> Tensor:
        x = weights[:, 0]
        return (x.square() - 1).square() / 4 - self.tilt * x

    def found(self) -> dict[str, Tensor]:
        return super().found() | {"escaped": (self.weights > self.top).float().mean()}
