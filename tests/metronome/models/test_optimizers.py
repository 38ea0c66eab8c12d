"""Muon with AdamW: each part as that optimizer alone, and both as one."""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from metronome.models import Regressor
from metronome.models.optimizers import Muon, lbfgs
from metronome.models.schedulers import cosine
from metronome.units import InputError


def convolutional() -> nn.Module:
    """Parameters of four, two and one dimensions."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 1, bias=False)
    )


def batches(number: int) -> list[Tensor]:
    return list(torch.randn(number, 5, 1, 4, 4, generator=torch.Generator().manual_seed(1)))


def evaluate(net: nn.Module, batch: Tensor) -> Tensor:
    net.zero_grad()
    loss = net(batch).square().mean()
    loss.backward()
    return loss


OPTIONS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.05}


def test_each_part_is_that_optimizer_alone() -> None:
    """Step for step, to the last bit, with a rate that changes."""
    ours, theirs = convolutional(), convolutional()
    one = Muon(ours.parameters(), **OPTIONS, momentum=0.9, betas=[0.8, 0.95])
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if p.ndim != 2]
    assert (len(matrices), len(others)) == (2, 5)
    apart = [
        torch.optim.Muon(matrices, **OPTIONS, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, **OPTIONS, betas=(0.8, 0.95)),
    ]
    for i, batch in enumerate(batches(6)):
        for optimizer in (one, *apart):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (i + 1)
        evaluate(ours, batch)
        evaluate(theirs, batch)
        one.step()
        for optimizer in apart:
            optimizer.step()
        assert torch.equal(jobs.weights(ours), jobs.weights(theirs)), i
    start = convolutional()
    assert all(not torch.equal(a, b) for a, b in zip(ours.parameters(), start.parameters(), strict=True))


def test_a_scheduler_scales_both() -> None:
    net = convolutional()
    optimizer = Muon(net.parameters(), **OPTIONS)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    before = jobs.weights(net).clone()
    for batch in batches(2):
        evaluate(net, batch)
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(1e-4)] * 2
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    now = jobs.weights(net).clone()
    optimizer.step()
    assert torch.equal(jobs.weights(net), now)
    assert not torch.equal(before, now)


def test_the_closure_is_called_once() -> None:
    net, (batch,), calls = convolutional(), batches(1), []
    optimizer = Muon(net.parameters(), **OPTIONS)

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        calls.append(1)
        return evaluate(net, batch)

    before = jobs.weights(net).clone()
    loss = optimizer.step(closure)
    assert loss == evaluate(convolutional(), batch)
    assert len(calls) == 1
    assert not torch.equal(jobs.weights(net), before)
    assert optimizer.step() is None


def went_on(optimizer: Muon, net: nn.Module, way: str, tmp_path: Path) -> tuple[Muon, nn.Module]:
    """The same optimizer and network, by another way."""
    if way == "copied":
        return copy.deepcopy((optimizer, net))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    again = copy.deepcopy(net)
    other = Muon(again.parameters(), lr=1.0)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    return other, again


@pytest.mark.parametrize("way", ["loaded", "copied"])
def test_its_state_goes_on(way: str, tmp_path: Path) -> None:
    net = convolutional()
    optimizer = Muon(net.parameters(), **OPTIONS)
    *first, last = batches(4)
    for batch in first:
        evaluate(net, batch)
        optimizer.step()
    other, again = went_on(optimizer, net, way, tmp_path)
    assert [group["lr"] for group in other.param_groups] == [0.01, 0.01]
    for module, stepped in ((net, optimizer), (again, other)):
        evaluate(module, last)
        stepped.step()
    assert torch.equal(jobs.weights(net), jobs.weights(again))
    assert {len(state) for state in other.state.values()} == {1, 3}  # a momentum; two moments and their step
    for group in other.param_groups:
        group["lr"] = 0.0
    before = jobs.weights(again).clone()
    other.step()
    assert torch.equal(jobs.weights(again), before), "its parts follow its groups"


def train(**flags: Any) -> tuple[Any, Any]:
    model = Regressor(
        network=jobs.network(dropout=flags.pop("dropout", 0.2)),
        optimizer=partial(Muon, **OPTIONS),
        scheduler=partial(cosine, warmup="2 steps"),
    )
    return jobs.fit(model=model, **{"max_epochs": 2, **flags})


def test_from_every_checkpoint(tmp_path: Path) -> None:
    saves = [
        ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(
            tmp_path, "{step}-validation", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=False
        ),
    ]
    model, _ = train(callbacks=saves, enable_checkpointing=True, accumulate_grad_batches=2)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 12
    for path in paths:
        again, _ = train(checkpoint=str(path), accumulate_grad_batches=2)
        assert torch.equal(jobs.weights(again), jobs.weights(model)), path.name


@pytest.mark.parametrize("flags", [{"accumulate_grad_batches": 3}, {"devices": 2, "strategy": "ddp_fork"}])
def test_the_layout_changes_nothing_but_rounding(flags: dict[str, Any], tmp_path: Path) -> None:
    """Its iteration runs in bfloat16: where a difference of 1e-17 in a gradient tips an entry over, it becomes one of
    2^-8 in it, some 1e-5 of an update of 0.01. That is seldom; here they are equal to 1e-12 on the machines tried."""
    model, _ = train(dropout=0.0)
    save = ModelCheckpoint(tmp_path, "end")
    train(dropout=0.0, callbacks=[save], enable_checkpointing=True, **flags)
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    found, start = torch.cat([tensor.flatten() for tensor in state.values()]), jobs.weights(jobs.network())
    torch.testing.assert_close(found, jobs.weights(model), rtol=0, atol=1e-4)
    assert (found - start).abs().mean() > 0.005


@pytest.mark.parametrize(
    ("net", "options", "error", "message"),
    [
        (nn.Conv1d(1, 1, 3), {}, InputError, "is for matrices, and this network has none; use optimizer=adamw"),
        (nn.Linear(2, 2), {"lr": -1}, ValueError, "Learning rate should be >= 0 but is: -1"),
        (nn.Linear(2, 2), {"momentum": -1}, InputError, "optimizer.momentum=-1 is not a number from 0 to below 1"),
        (nn.Linear(2, 2), {"momentum": 1}, InputError, "optimizer.momentum=1 is not a number from 0 to below 1"),
        (nn.Linear(2, 2), {"momentum": "much"}, InputError, "optimizer.momentum='much' is not a finite number"),
        (nn.Linear(2, 2), {"nesterov": "maybe"}, InputError, "optimizer.nesterov='maybe' is neither true nor false"),
        (nn.Linear(2, 2), {"betas": ["a", "b"]}, InputError, "is not a pair of numbers; write for example"),
        (nn.Linear(2, 2), {"lr": float("nan")}, InputError, "optimizer.lr=nan is not a finite number, such as 0.001"),
        (nn.Linear(2, 2), {"adjust_lr_fn": "mine"}, ValueError, "mine is not supported"),
        (nn.Linear(2, 2), {"betas": (2, 0)}, ValueError, "Invalid beta parameter"),
        (nn.Linear(2, 2), {"betas": [0.9]}, InputError, "is not a pair of numbers"),
        (nn.Linear(2, 2), {"betas": 0.9}, InputError, "optimizer.betas=0.9 is not a pair of numbers"),
        (nn.Linear(2, 2), {"ns_steps": 100}, InputError, "optimizer.ns_steps=100 is more than 99"),
        (nn.Linear(2, 2), {"ns_steps": 0}, InputError, "optimizer.ns_steps=0 is not a number of steps from 1 up"),
    ],
)
def test_what_it_refuses(net: nn.Module, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Muon(net.parameters(), **options)


def test_groups_are_its_own() -> None:
    with pytest.raises(InputError, match="makes its own groups"):
        Muon([{"params": nn.Linear(2, 2).parameters()}])  # pyright: ignore


def test_none_is_added_later() -> None:
    """It would never be trained."""
    optimizer = Muon(nn.Linear(2, 2).parameters())
    later = {"params": list(nn.Linear(3, 3).parameters())}
    for each in (optimizer, copy.deepcopy(optimizer)):
        with pytest.raises(InputError, match="takes none later; give it all of them, or use optimizer=adamw"):
            each.add_param_group(later)
        assert len(each.param_groups) == 2


def test_a_pytorch_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match=r"optimizer=muon needs PyTorch 2\.9 or newer, and this is "):
        Muon(nn.Linear(2, 2).parameters())


def test_matrices_alone() -> None:
    net = nn.Linear(3, 2, bias=False)
    optimizer = Muon(net.parameters(), **OPTIONS)
    net(torch.ones(1, 3)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert len(optimizer.param_groups) == 1


# ---- options of every optimizer ---------------------------------------------------------------------------------


class Three(torch.optim.Adam):
    """One written elsewhere, of three betas and an eps that may be left out."""

    def __init__(self, params: Any, betas: Any = (0.9, 0.99, 0.999), eps: float | None = None) -> None:
        super().__init__(params, betas=betas[:2])
        self.defaults.update(betas=betas, eps=eps)


def configured(make: Any, **options: Any) -> Any:
    return Regressor(network=jobs.network(), optimizer=partial(make, **options)).configure_optimizers()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (torch.optim.Adam, {"betas": [0.9]}, "optimizer.betas=[0.9] is not a pair of numbers; write for example"),
        (torch.optim.Adam, {"betas": (0.9, 0.99, 0.9)}, "optimizer.betas=(0.9, 0.99, 0.9) is not a pair of numbers"),
        (torch.optim.Adam, {"eps": float("nan")}, "optimizer.eps=nan is not a finite number, such as 1e-08"),
        (torch.optim.Adam, {"lr": "abc"}, "optimizer.lr='abc' is not a finite number, such as 0.001"),
        (torch.optim.AdamW, {"lr": float("inf")}, "optimizer.lr=inf is not a finite number, such as 0.001"),
        (torch.optim.SGD, {"momentum": True}, "optimizer.momentum=True is not a finite number, such as 0"),
        (torch.optim.Rprop, {"etas": [0.5]}, "optimizer.etas=[0.5] is not a pair of numbers; write for example [0.5,1"),
        (torch.optim.Rprop, {"etas": 0.5}, "optimizer.etas=0.5 is not a pair of numbers"),
        (torch.optim.Rprop, {"step_sizes": ["a", "b"]}, "optimizer.step_sizes=['a', 'b'] is not a pair of numbers"),
        (lbfgs, {"tolerance_grad": "x"}, "optimizer.tolerance_grad='x' is not a finite number, such as 1e-07"),
        (lbfgs, {"tolerance_change": None}, "optimizer.tolerance_change=None is not a finite number, such as 1e-09"),
        (lbfgs, {"lr": "abc"}, "optimizer.lr='abc' is not a finite number, such as 1.0"),
        (torch.optim.Adafactor, {"eps": 1e-3}, "optimizer.eps=0.001 is not a pair of numbers; write for example [null"),
        (Three, {"betas": [0.9, 0.99]}, "optimizer.betas=[0.9, 0.99] is not 3 numbers; write for example"),
    ],
)
def test_options_that_are_no_numbers(make: Any, options: dict[str, Any], message: str) -> None:
    """Said before the first step."""
    with pytest.raises(InputError) as error:
        configured(make, **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.Adam, {"lr": torch.tensor(0.1), "betas": [0.5, 0.99]}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Adafactor, {"eps": [1e-30, 1e-3]}),
        (torch.optim.Adadelta, {}),
        (torch.optim.RMSprop, {"eps": 1}),
        (torch.optim.ASGD, {}),
        (torch.optim.Rprop, {"step_sizes": [1e-5, 10]}),
        (lbfgs, {"tolerance_grad": 0}),
        (Muon, OPTIONS),
        (Three, {}),
        (Three, {"betas": [0.9, 0.99, 0.5], "eps": "auto"}),
    ],
)
def test_options_as_they_should_be(make: Any, options: dict[str, Any]) -> None:
    assert isinstance(configured(make, **options), torch.optim.Optimizer)
