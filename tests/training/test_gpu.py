"""The engine on a GPU: run with `pytest -m gpu`."""

from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, plain_loop, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU: dict[str, Any] = {"accelerator": "gpu", "deterministic": "warn"}


@pytest.mark.parametrize("accumulation", [1, 3, 7])
def test_it_trains_as_a_cpu_does(accumulation: int) -> None:
    """float64, but other kernels: equal to 1e-9."""
    expected, losses = plain_loop()
    model, run = fit(accumulate_grad_batches=accumulation, **GPU)
    torch.testing.assert_close(weights(model).cpu(), expected, rtol=1e-9, atol=1e-12)
    assert model.logged == pytest.approx(losses, rel=1e-9)
    assert run.counters.iterations == run.plan.total_iterations


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_run_twice(workers: int) -> None:
    first, again = (
        weights(fit(model=Net(dropout=0.3), data=Data(batch_size=32, num_workers=n), **GPU)[0]) for n in (0, workers)
    )
    assert torch.equal(first, again)


def test_accumulation_takes_less_memory() -> None:
    """Activations of a wide layer: four micro-batches need about a quarter."""

    class Wide(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(10, 100_000), torch.nn.Tanh(), torch.nn.Linear(100_000, 1)
            ).double()

    peaks = []
    for accumulation in (1, 4):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        fit(model=Wide(), data=Data(batch_size="full"), accumulate_grad_batches=accumulation, max_epochs=1, **GPU)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.6 * peaks[0]
