"""The engine on a GPU: run with `pytest -m gpu`."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, plain_loop, trainer, weights
from lightning.pytorch.callbacks import Callback

from metronome.data import DataModule, Splits
from metronome.data.on_device import DeviceReader
from metronome.units import InputError, RunFailed

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


@pytest.fixture(params=["PyTorch", "the GPU"])
def small_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """2 GB and no more: PyTorch gives no more of it, or the GPU has no more, since something else fills it."""
    torch.cuda.empty_cache()
    filling = None
    if request.param == "PyTorch":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(2e9 / total)
    else:
        free, _ = torch.cuda.mem_get_info()
        filling = torch.empty(int(free - 2e9), dtype=torch.uint8, device="cuda")
    yield
    del filling
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
    flags = {"max_epochs": 1, "gradient_clip_val": 1e-6, **GPU}  # so wide a network goes astray at this rate
    model, _ = fit(model=Widest(), data=data, accumulate_grad_batches=8, **flags)
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


# ---- data on the device ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 3])
def test_data_on_the_device_give_the_same_weights(accumulation: int) -> None:
    """As batches from main memory, pinned or not, with workers or without: bit for bit."""
    options: list[dict[str, Any]] = [
        {"on_device": True},
        {"on_device": "auto"},
        {"on_device": False},
        {"on_device": False, "num_workers": 2},
        {"on_device": False, "pin_memory": False},
    ]
    flags = {"accumulate_grad_batches": accumulation, **GPU}
    found = [weights(fit(model=Net(dropout=0.3), data=Data(batch_size=32, **o), **flags)[0]) for o in options]
    assert all(torch.equal(found[0], other) for other in found[1:])


class Bytes(DataModule):
    def __init__(self, num_samples: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_rows = num_samples

    def load(self) -> Splits:
        x = torch.zeros(self.num_rows, 1_000_000, dtype=torch.uint8)
        return Splits(train=(x, torch.arange(self.num_rows)), val=(x[:3], torch.arange(3)))


def attached(data: DataModule) -> DataModule:
    data.trainer = trainer(**GPU)
    data.trainer.strategy.connect(Net())
    return data


def test_bytes_stay_bytes_and_are_gathered_there() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    loader = attached(Bytes(50, batch_size=8)).train_dataloader()
    assert isinstance(loader.dataset, DeviceReader)
    assert 50e6 <= torch.cuda.memory_allocated() - before < 51e6
    batches = list(loader)
    assert {x.dtype for x, _ in batches} == {torch.uint8}
    assert {x.device.type for x, _ in batches} == {"cuda"}
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(50))


def test_data_that_do_not_fit_stay_in_main_memory() -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    filling = torch.empty(int(free - 0.4e9), dtype=torch.uint8, device="cuda")  # 100 MB is a quarter of what is left
    try:
        assert not isinstance(attached(Bytes(200, batch_size=8)).train_dataloader().dataset, DeviceReader)
        assert isinstance(attached(Bytes(50, batch_size=8)).train_dataloader().dataset, DeviceReader)
        with pytest.raises(InputError, match=r"^data\.on_device=true, and the data take 0\.603 GB"):
            attached(Bytes(600, batch_size=8, on_device=True)).train_dataloader()
    finally:
        del filling
        torch.cuda.empty_cache()


# ---- nothing waits for it ----------------------------------------------------------------------------------------


class Strict(Callback):
    """From the fourth step to the last, PyTorch raises where anything waits for the device."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 17:
            torch.cuda.set_sync_debug_mode("default")


class Quiet(Net):
    """Net, whose hooks look at numbers in each step, without them."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass


@pytest.mark.parametrize(
    "flags",
    [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}],
    ids=["plain", "accumulation", "clipped"],
)
@pytest.mark.parametrize("options", [{"on_device": True}, {"on_device": False}], ids=["there", "pinned"])
def test_nothing_waits(flags: dict[str, Any], options: dict[str, Any]) -> None:
    """In the middle of an epoch of 20 steps; without `deterministic`, in which some kernels look at their indices."""
    try:
        fit(
            model=Quiet(), data=Data(batch_size=8, **options), callbacks=[Strict()], max_epochs=1, limit_val_batches=0,
            accelerator="gpu", **flags,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- TF32 --------------------------------------------------------------------------------------------------------


class Rounds(Net):
    """How far a product and a convolution in float32 are from those in float64."""

    def on_train_start(self) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        a, b = torch.randn(2, 512, 512, generator=generator, device="cuda", dtype=torch.float64)
        x = torch.randn(8, 64, 32, 32, generator=generator, device="cuda", dtype=torch.float64)
        kernel = torch.randn(64, 64, 3, 3, generator=generator, device="cuda", dtype=torch.float64)
        product, convolved = a.float() @ b.float(), torch.conv2d(x.float(), kernel.float())
        self.errors = [
            float((found - exact).norm() / exact.norm())
            for found, exact in ((product, a @ b), (convolved, torch.conv2d(x, kernel)))
        ]


def test_tf32_is_off_unless_it_is_allowed() -> None:
    model, _ = fit(model=Rounds(), max_epochs=1, accelerator="gpu", allow_tf32=False)
    assert max(model.errors) < 5e-6
    if torch.cuda.get_device_capability()[0] < 8:
        return  # it has none
    model, _ = fit(model=Rounds(), max_epochs=1, accelerator="gpu", allow_tf32=True)
    assert model.errors[0] > 5e-5
