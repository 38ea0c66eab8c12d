"""Fused optimizers: where they are chosen, and that they are as exact as those that are not."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from commands import Commands
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer

from metronome.data import Splits
from metronome.models import Regressor
from metronome.models.fused import choose_for_step, fuse, is_better_fused, make_fused
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError


class Derived(AdamW):
    """An optimizer of somebody's own, which may do more in its step."""


@pytest.mark.parametrize(
    ("kind", "device", "options", "expected"),
    [
        (AdamW, "cpu", {}, True),
        (Adam, "cpu", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}, True),
        (Adagrad, "cpu", {}, True),
        (SGD, "cpu", {"momentum": 0.9, "nesterov": True}, False),
        (AdamW, "cuda", {}, True),
        (Adam, "cuda", {}, True),
        (SGD, "cuda", {"momentum": 0.9}, True),
        (SGD, "cuda", {}, False),
        (Adagrad, "cuda", {}, False),
        (AdamW, "mps", {}, False),
        (AdamW, "meta", {}, False),
        (NAdam, "cpu", {}, False),
        (Derived, "cpu", {}, False),
        # somebody has said how it is to work
        (AdamW, "cpu", {"fused": False}, False),
        (AdamW, "cpu", {"fused": True}, False),
        (AdamW, "cuda", {"foreach": False}, False),
        (AdamW, "cuda", {"foreach": True}, False),
        (AdamW, "cuda", {"capturable": True}, False),
        (AdamW, "cpu", {"differentiable": True}, False),
    ],
)
def test_where_it_is_chosen(kind: type[Optimizer], device: str, options: dict[str, Any], expected: bool) -> None:
    assert is_better_fused(kind, device, {"fused": None, "foreach": None} | options) is expected


def test_a_value_that_says_nothing() -> None:
    with pytest.raises(InputError, match=r"optimizer.fused='often' is neither true nor false, nor null"):
        is_better_fused(AdamW, "cpu", {"fused": "often"})


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((torch.float64,), True),
        ((torch.bfloat16,), False),  # not measured
        ((torch.complex64,), False),
    ],
)
def test_all_parameters_count(others: tuple[torch.dtype, ...], expected: bool) -> None:
    parameters = [nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, *others)]
    optimizer = AdamW(parameters)
    assert make_fused(optimizer) is expected
    assert optimizer.param_groups[0]["fused"] is (True if expected else None)


# ---- as exact ----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[..., Optimizer]] = {
    "momentum": partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "dampened": partial(SGD, lr=0.1, momentum=0.9, dampening=0.3, maximize=True),
    "nesterov": partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(Adam, lr=0.001, weight_decay=0.01),
    "amsgrad": partial(Adam, lr=0.001, amsgrad=True, maximize=True),
    "adamw": partial(AdamW, lr=0.001),
    "adagrad": partial(Adagrad, lr=0.01, lr_decay=0.001),
}
SHAPES = ((64, 30), (64,), (10, 64), (10,), (37,), ())


def walk(make: Callable[..., Optimizer], fused: bool, dtype: torch.dtype, steps: int, device: str = "cpu") -> Tensor:
    """The weights after steps whose gradients, drawn in float32, are the same for all."""
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(shape, generator=generator) for shape in SHAPES]
    drift = [torch.randn(shape, generator=generator) for shape in SHAPES]
    parameters = [nn.Parameter(weight.to(device, dtype)) for weight in weights]
    optimizer = make(parameters)
    if fused:
        fuse(optimizer)
    for _ in range(steps):
        for parameter, mean in zip(parameters, drift, strict=True):
            gradient = 0.01 * (torch.randn(parameter.shape, generator=generator) + 0.3 * mean)
            parameter.grad = gradient.to(device, dtype)
        if fused:
            choose_for_step(optimizer)
        optimizer.step()
    assert all(bool(group["fused"]) is fused for group in optimizer.param_groups)
    return torch.cat([parameter.detach().double().flatten() for parameter in parameters]).cpu()


@pytest.mark.parametrize(
    ("name", "device"),
    [
        *((name, "cpu") for name in KINDS),
        *(
            pytest.param(name, "cuda", marks=[
                pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ])
            for name in KINDS if name != "adagrad"
        ),
    ],
)  # fmt: skip
def test_in_float32_it_is_as_near_to_float64(name: str, device: str) -> None:
    """Beside a loop in float64 on the CPU, after 400 steps with the same gradients; in float64 it is that loop's."""
    exact = walk(KINDS[name], False, torch.float64, 400)
    fused, loop = (
        (walk(KINDS[name], is_fused, torch.float32, 400, device) - exact).abs() for is_fused in (True, False)
    )
    assert loop.mean() > 0
    assert fused.mean() <= 1.02 * loop.mean()
    assert fused.max() <= 1.1 * loop.max()
    in_double = walk(KINDS[name], True, torch.float64, 400, device)
    torch.testing.assert_close(in_double, exact, rtol=1e-11, atol=1e-14)


def regressor(make: Callable[..., Optimizer], kind: type[Regressor] = Regressor) -> Regressor:
    return kind(jobs.network(), optimizer=make)


def flag(run: Any) -> Any:
    return run.optimizers[0].param_groups[0]["fused"]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", ["amsgrad", "adamw"])
def test_a_training(name: str, accumulation: int) -> None:
    """Beside a plain PyTorch loop in float64, in which nothing is fused."""
    model, run = jobs.fit(model=regressor(KINDS[name]), accumulate_grad_batches=accumulation)
    assert flag(run) is True
    net = jobs.network()
    optimizer = KINDS[name](net.parameters())
    for epoch in range(4):
        for batch in torch.from_numpy(epoch_order(jobs.SEED, epoch, jobs.N)).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(jobs.X[batch]), jobs.Y[batch]).backward()
            optimizer.step()
    torch.testing.assert_close(jobs.weights(model), jobs.weights(net), rtol=1e-11, atol=1e-13)


# ---- gradients that no kernel takes as they are --------------------------------------------------------------------


def transposed(weight: Tensor, step: int) -> Tensor:
    return torch.randn(4, 6).t()


def late(weight: Tensor, step: int) -> Tensor | None:
    return torch.randn(6, 4) if step else None


def sparse(weight: Tensor, step: int) -> Tensor:
    return torch.randn(6, 4).to_sparse(1)


def broadcast(weight: Tensor, step: int) -> Tensor:
    return torch.randn(6, 1).expand(6, 4)


def alike(weight: Tensor, step: int) -> Tensor:
    return torch.empty_like(weight).copy_(torch.randn(6, 4))


def same_gaps(weight: Tensor, step: int) -> Tensor:
    return torch.randn(6, 8)[:, ::2]


def plain() -> Tensor:
    return torch.randn(6, 4)


@pytest.mark.parametrize(
    ("weight", "gradient", "kinds", "fused"),
    [
        (plain, alike, (SGD, AdamW, Adagrad), [True] * 4),
        (lambda: torch.randn(4, 6).t(), alike, (SGD, AdamW, Adagrad), [True] * 4),
        (plain, transposed, (SGD, AdamW, Adagrad), [False] * 4),
        (plain, broadcast, (SGD, AdamW, Adagrad), [False] * 4),
        (lambda: torch.randn(4, 6).t(), lambda weight, step: torch.randn(6, 4), (SGD, AdamW, Adagrad), [False] * 4),
        (lambda: torch.randn(6, 8)[:, ::2], same_gaps, (SGD, AdamW, Adagrad), [False] * 4),
        (plain, late, (SGD,), [True, False, True, True]),
        (plain, late, (AdamW, Adagrad), [True] * 4),
        (plain, sparse, (SGD, Adagrad), [False] * 4),  # PyTorch's AdamW takes none at all
    ],
)
def test_a_step_that_cannot_be_fused(weight: Any, gradient: Any, kinds: tuple[Any, ...], fused: list[bool]) -> None:
    """It is made as it was before, and the next one is fused where it can be."""
    for kind in kinds:
        options: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
        ends, seen = [], []
        for is_fused in (False, True):
            torch.manual_seed(2)
            parameters = [nn.Parameter(weight()), nn.Parameter(torch.randn(3))]
            optimizer = kind(parameters, lr=0.1, **options)
            if is_fused:
                fuse(optimizer)
            for step in range(4):
                parameters[0].grad, parameters[1].grad = gradient(parameters[0], step), torch.randn(3)
                if is_fused:
                    choose_for_step(optimizer)
                    seen.append(optimizer.param_groups[0]["fused"])
                optimizer.step()
            ends.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        assert seen == fused
        torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


def test_a_state_that_lies_otherwise() -> None:
    """As where a run with `channels_last` goes on from a checkpoint of one without."""
    ends = []
    for is_fused in (False, True):
        torch.manual_seed(3)
        start, gradients = torch.randn(4, 3, 2, 2), torch.randn(5, 4, 3, 2, 2)
        weight = nn.Parameter(start.clone())
        optimizer = AdamW([weight], lr=0.1)
        assert not is_fused or make_fused(optimizer)
        for step, gradient in enumerate(gradients):
            if step == 2:
                weight.data = weight.data.to(memory_format=torch.channels_last)
            weight.grad = torch.empty_like(weight).copy_(gradient)
            if is_fused:
                choose_for_step(optimizer)
                assert optimizer.param_groups[0]["fused"] is (step < 2)
            optimizer.step()
        ends.append(weight.detach().contiguous())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


class Frozen(Regressor):
    """Its first layer is trained from the seventh step on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network[0].requires_grad_(self.trainer.global_step >= 6)  # pyright: ignore


class NotANumber(Regressor):
    """The first and the third loss are none."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.trainer.current_epoch == 0 and batch_idx in (0, 2) else loss


@pytest.mark.parametrize("name", ["adagrad", "adamw"])
@pytest.mark.parametrize("kind", [Frozen, NotANumber])
def test_steps_without_some_gradients(kind: type[Regressor], name: str) -> None:
    ours, run = jobs.fit(model=regressor(KINDS[name], kind), on_nonfinite="skip")
    theirs, plainly = jobs.fit(model=regressor(partial(KINDS[name], fused=False), kind), on_nonfinite="skip")
    assert (flag(run), flag(plainly)) == (True, False)
    torch.testing.assert_close(jobs.weights(ours), jobs.weights(theirs), rtol=1e-11, atol=1e-13)


# ---- what is left as it was ----------------------------------------------------------------------------------------


class Looks(Regressor):
    """Its own hook takes the place of the one that looks at each update."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        pass


def test_a_module_with_the_hook_of_its_own() -> None:
    assert flag(jobs.fit(model=regressor(KINDS["adamw"], Looks))[1]) is None


def test_without_a_trainer() -> None:
    optimizer = regressor(KINDS["adamw"]).configure_optimizers()
    assert optimizer.param_groups[0]["fused"] is None


def test_a_module_of_somebody_else() -> None:
    assert flag(jobs.fit()[1]) is None


class Single(jobs.Data):
    def load(self) -> Splits:
        return Splits(train=(jobs.X.float(), jobs.Y.float()))


def test_clipping_beside_a_gradient_scaler() -> None:
    """Lightning refuses it for an optimizer that undoes the scaling in its own step, as fused ones do elsewhere."""
    weights = []
    for make in (KINDS["adam"], partial(KINDS["adam"], fused=False)):
        scaler: Any = torch.amp.GradScaler("cpu")  # pyright: ignore
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        model = Regressor(jobs.network().float(), optimizer=make)
        _, run = jobs.fit(model=model, data=Single(batch_size=32), plugins=[precision], gradient_clip_val=0.1)
        weights.append(jobs.weights(model))
        assert flag(run) is (make is KINDS["adam"])
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


# ---- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_run_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, _ = jobs.fit(model=regressor(KINDS[name]))
    _, first = jobs.fit(model=regressor(KINDS[name]), max_epochs=2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    model, run = jobs.fit(model=regressor(KINDS[name]), checkpoint=str(tmp_path / "half.ckpt"))
    assert flag(run) is True
    assert torch.equal(jobs.weights(model), jobs.weights(whole))


def test_a_run_that_was_not_fused_goes_on_as_it_was(tmp_path: Path) -> None:
    """A checkpoint from before there were fused ones: of such a group nothing is said."""
    whole, _ = jobs.fit(model=regressor(KINDS["adamw"], Looks))
    _, first = jobs.fit(model=regressor(KINDS["adamw"], Looks), max_epochs=2)
    first.save_checkpoint(tmp_path / "old.ckpt")
    model, run = jobs.fit(model=regressor(KINDS["adamw"]), checkpoint=str(tmp_path / "old.ckpt"))
    assert flag(run) is None
    assert torch.equal(jobs.weights(model), jobs.weights(whole))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("optimizer=adamw",), True),
        (("optimizer=momentum", "optimizer.fused=false"), False),
        (("optimizer=sgd",), None),
    ],
)
def test_from_the_command_line(overrides: tuple[str, ...], expected: bool | None, commands: Commands) -> None:
    job = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=200", "logger=none")
    done = commands("train", *job, *overrides)
    assert done.code == 0, done.err
    checkpoint = torch.load(done.run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["fused"] is expected


def test_an_optimizer_that_has_no_fused_form(commands: Commands) -> None:
    done = commands("train", "+experiment=linear", "trainer=cpu", "optimizer=rprop", "optimizer.fused=true")
    assert done.code == 2
    assert "error: optimizer Rprop: " in done.err
    assert "fused" in done.err


@pytest.mark.slow
def test_on_two_processes(commands: Commands) -> None:
    """Each makes the same update; beside one process, and one where nothing is fused, equal to float32's rounding."""
    job = ("+experiment=linear", "optimizer=adamw", "trainer.max_epochs=2", "data.batch_size=50", "logger=none")
    ends, before = [], set()
    for overrides in (
        ("trainer=ddp_cpu", "trainer.devices=2", "trainer.accumulate_grad_batches=3"),
        ("trainer=cpu",),
        ("trainer=cpu", "optimizer.fused=false"),
    ):
        done = commands("train", *job, *overrides)
        assert done.code == 0, done.err
        (run,) = set(done.runs) - before
        before.add(run)
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        group = checkpoint["optimizer_states"][0]["param_groups"][0]
        assert group["fused"] is ("optimizer.fused=false" not in overrides)
        ends.append(torch.cat([value.flatten() for value in checkpoint["state_dict"].values()]))
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[1], ends[2], rtol=1e-5, atol=1e-6)
