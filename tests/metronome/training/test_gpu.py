"""The engine on a GPU: run with `pytest -m gpu`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, plain_loop, weights

from metronome.units import RunFailed

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


class Widest(Net):
    """157 samples of 800,000 numbers: 1 GB for each of several activations of a full batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(10, 800_000), torch.nn.Tanh(), torch.nn.Linear(800_000, 1)
        ).double()


@pytest.fixture
def small_memory() -> Iterator[None]:
    """A GPU that gives 2 GB and no more."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2e9 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_step_that_does_not_fit_is_done_in_pieces(small_memory: None) -> None:
    flags: dict[str, Any] = {"max_epochs": 2, "limit_val_batches": 0, **GPU}
    model, run = fit(model=Widest(), data=Data(batch_size="full"), accumulate_grad_batches="auto", **flags)
    assert run.accumulate >= 2
    assert run.out_of_memory[0]["step"] == 1
    assert run.counters.iterations == 2 * run.accumulate
    again, _ = fit(model=Widest(), data=Data(batch_size="full"), accumulate_grad_batches=run.accumulate, **flags)
    assert torch.equal(weights(model), weights(again))


def test_an_evaluation_that_does_not_fit_is_halved(small_memory: None) -> None:
    data = Data(batch_size=8, eval_batch_size=23)
    model, _ = fit(model=Widest(), data=data, accumulate_grad_batches=8, max_epochs=1, **GPU)
    assert len(model.val_losses) == 1


@pytest.mark.parametrize("action", ["stop", "skip"])
def test_a_step_that_is_not_finite(action: str) -> None:
    """On a GPU it is found a step or two later, and told as what it was."""

    class Breaks(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("nan") if self.trainer.global_step == 6 else loss

    model = Breaks()
    if action == "skip":
        _, run = fit(model=model, on_nonfinite="skip", **GPU)
        assert [entry["step"] for entry in run.nonfinite] == [7]
        assert weights(model).isfinite().all()
        return
    with pytest.raises(RunFailed, match=r"in step 7 \(epoch 2\)"):
        fit(model=model, **GPU)
    assert len(model.step_losses) < 7 + 64
