"""Flags for speed: what each puts to work, and that the training stays the same to rounding."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import jobs
import lightning as L
import pytest
import torch
from torch import Tensor, nn

from metronome.training import Checkpoint, Trainer, speed
from metronome.training.speed import Speed
from metronome.units import InputError

HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++"))


class Images(L.LightningModule):
    """A small convolutional network; what its layers were like in the last step is kept."""

    def __init__(self, optimizer: Any = torch.optim.SGD, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5 * 4 * 4, 1)
        ).double()
        self.make, self.options = optimizer, options

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), **{"lr": 0.01, **self.options})


class Data(jobs.Data):
    def load(self) -> Any:
        x = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return super().load()._replace(train=(x, x.mean((1, 2, 3), keepdim=True).flatten(1)))


def trained(optimizer: Any = torch.optim.SGD, options: Any = None, **flags: Any) -> tuple[Images, Trainer]:
    model = Images(optimizer, **(options or {}))
    return jobs.fit(model=model, data=Data(batch_size=16), **{"max_epochs": 2, "limit_val_batches": 0, **flags})


def are_close(a: nn.Module, b: nn.Module) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    torch.testing.assert_close(jobs.weights(a), jobs.weights(b), rtol=1e-10, atol=1e-13)


# ---- compiled ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(True, marks=[pytest.mark.slow, pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")]),
    ],
)
def test_compiled(backend: Any, tmp_path: Path) -> None:
    """In place: the names stay, and its checkpoint is gone on with uncompiled."""
    plain, _ = trained()
    compiled, run = trained(compile=backend, max_epochs=1)
    assert compiled.network._compiled_call_impl is not None
    assert plain.network._compiled_call_impl is None
    run.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = trained(checkpoint=str(tmp_path / "half.ckpt"))
    assert again.network._compiled_call_impl is None
    are_close(again, plain)


def test_the_tenth_network_is_compiled_as_the_first() -> None:
    """PyTorch compiles so many for a class, in one process, and no more: those of a sweep, say."""
    graphs = []
    torch._dynamo.register_backend(lambda graph, inputs: graphs.append(graph) or graph.forward, name="counted")
    compiled = []
    for width in range(1, 11):
        model = Images()
        model.network = nn.Sequential(
            nn.Conv2d(3, width, 3 - width % 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)
        ).double()
        before = len(graphs)
        jobs.fit(model=model, data=Data(batch_size=20), max_epochs=1, limit_val_batches=0, compile="counted")
        compiled.append(len(graphs) - before)
    assert min(compiled) >= 1


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest parts with weights that can be called, each once; one that its owner has compiled stays so."""
    asked: list[nn.Module] = []
    monkeypatch.setattr(speed, "_compiled", lambda network, backend: asked.append(network))

    class Several(Images):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))])
            self.loss, self.scale = nn.MSELoss(), nn.Parameter(torch.ones(1, dtype=torch.float64))
            self.own = nn.Linear(1, 1)
            self.own._compiled_call_impl = self.own._call_impl  # pyright: ignore

    model = Several()
    jobs.fit(model=model, data=Data(batch_size=16), max_epochs=1, limit_val_batches=0, compile="eager")
    assert asked == [model.network, *model.heads]


class NoNetwork(jobs.Net):
    def __init__(self) -> None:
        super().__init__()
        del self.net
        self.weight = nn.Parameter(torch.zeros(10, 1, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(batch[0] @ self.weight, batch[1])


def test_nothing_to_compile() -> None:
    with pytest.raises(InputError, match=r"^trainer\.compile compiles the networks .* NoNetwork has none with weights"):
        jobs.fit(model=NoNetwork(), compile="eager")


def test_nothing_to_compile_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_missing_compiler", lambda device: "a C++ compiler")
    with pytest.raises(InputError, match=r"^trainer\.compile=True needs a C\+\+ compiler, which is not there"):
        trained(compile=True)
    with pytest.raises(InputError, match=r"^trainer\.compile=gcc is no backend of torch\.compile; .*inductor"):
        trained(compile="gcc")


def test_a_missing_compiler_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert speed._missing_compiler(torch.device("cpu")) == "a C++ compiler"
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    assert speed._missing_compiler(torch.device("cuda")) == "the package triton"
    monkeypatch.undo()
    if HAS_COMPILER:
        assert speed._missing_compiler(torch.device("cpu")) is None


# ---- laid out ----------------------------------------------------------------------------------------------------


def layouts(model: nn.Module) -> list[bool]:
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]


def test_channels_last() -> None:
    plain, _ = trained(options={"momentum": 0.9})
    model, run = trained(options={"momentum": 0.9}, channels_last=True)
    assert layouts(model) == [True, True]
    assert layouts(plain) == [False, False]
    are_close(model, plain)
    for parameter, state in run.optimizers[0].state.items():
        assert state["momentum_buffer"].stride() == parameter.stride()


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is compiled asks for CUDA, which a fork cannot give")
def test_on_two_devices(tmp_path: Path) -> None:
    """All together; the layout is there before DDP makes its buffers, or it would warn."""

    class Recorded(Images):
        def on_train_end(self) -> None:
            torch.save((jobs.weights(self), layouts(self)), tmp_path / f"{self.global_rank}.pt")

    plain, _ = trained()
    flags: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2, "limit_val_batches": 0}
    run = jobs.trainer(compile="eager", channels_last=True, **flags)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Grad strides do not match")
        run.fit(Recorded(), datamodule=Data(batch_size=16))
    for rank in (0, 1):
        weights, are_laid_out = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(weights, jobs.weights(plain), rtol=1e-10, atol=1e-13)
        assert are_laid_out == [True, True]


def test_channels_last_without_images() -> None:
    flags: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 0}
    found = [jobs.weights(jobs.fit(channels_last=on, **flags)[0]) for on in (False, True)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"amsgrad": True}),
    ],
)
@pytest.mark.parametrize("before", ["plain", "fast"])
@pytest.mark.parametrize("after", ["plain", "fast"])
def test_fused(optimizer: Any, options: dict[str, Any], before: str, after: str, tmp_path: Path) -> None:
    """A checkpoint with fused updates and channels last is gone on with without them, and the other way round."""
    kinds: dict[str, Any] = {"plain": {}, "fast": {"channels_last": True}}
    made = {"plain": options, "fast": options | {"fused": True}}
    plain, _ = trained(optimizer, options, max_epochs=3)
    save = Checkpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trained(optimizer, made[before], callbacks=[save], enable_checkpointing=True, **kinds[before])
    path = str(tmp_path / "step=4.ckpt")
    model, _ = trained(optimizer, made[after], checkpoint=path, max_epochs=3, **kinds[after])
    are_close(model, plain)


def test_another_layout_would_be_taken_for_the_same() -> None:
    """Which is why states are laid out anew: a fused kernel takes the n-th number in memory for the n-th."""
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=1.0, fused=True)
    momentum = torch.arange(24.0).reshape(2, 3, 2, 2)
    optimizer.state[weight]["momentum_buffer"] = momentum.clone(memory_format=torch.channels_last)
    speed._lay_out_states(optimizer)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight.detach(), -momentum)


# ---- TF32 --------------------------------------------------------------------------------------------------------


def tf32() -> tuple[Any, Any]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


class Asks(jobs.Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.found = tf32()
        return super().training_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.found_in_test = tf32()


@pytest.mark.parametrize("allowed", [None, False, True])
def test_tf32(allowed: bool | None) -> None:
    """While it trains or tests, and as before when it is over, come what may."""
    before = tf32()
    assert before == (False, True), "PyTorch lets convolutions round"
    model, run = jobs.fit(model=Asks(), max_epochs=1, allow_tf32=allowed)
    assert model.found == (before if allowed is None else (allowed, allowed))
    run.test(model, datamodule=jobs.Data(batch_size=32), verbose=False)
    assert model.found_in_test == model.found
    assert tf32() == before

    class Fails(jobs.Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        jobs.fit(model=Fails(), allow_tf32=allowed)
    assert tf32() == before


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compile", "channels_last", "allow_tf32"])
def test_what_is_no_answer(name: str) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.{name}=1\.5 is neither true"):
        Trainer(**{name: 1.5})  # pyright: ignore
    assert getattr(Speed(), name) in (False, None)
