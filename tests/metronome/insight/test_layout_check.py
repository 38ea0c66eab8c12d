"""What `+debug=layout` finds, in modules that nobody here wrote, beside a plain loop over the same batch."""

import random
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from jobs import FEATURES, SEED, trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.demos.lstm import SimpleLSTM
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.nn.functional import cross_entropy, dropout, mse_loss, nll_loss, normalize
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from metronome.insight import LayoutCheck
from metronome.insight.layout.check import Finding
from metronome.units import InputError, RunFailed, even_split

SAMPLES, CLASSES = 18, 3

_generator = torch.Generator().manual_seed(5)
X = torch.randn(SAMPLES, FEATURES, generator=_generator, dtype=torch.float64)
Y = torch.randn(SAMPLES, 1, generator=_generator, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (SAMPLES,), generator=_generator)
SOME = torch.where(torch.arange(SAMPLES) % 5 < 2, -100, LABELS)


class Plain(L.LightningModule):
    """A linear layer and a mean of squares, until a test has it otherwise."""

    def __init__(self, *layers: nn.Module, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        parts = OrderedDict((f"layer{i}", layer) for i, layer in enumerate(layers))
        self.net = nn.Sequential(OrderedDict(first=nn.Linear(FEATURES, 8), **parts, last=nn.Linear(8, outputs)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return mse_loss(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(*batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def look(model: L.LightningModule, *columns: Tensor, check: LayoutCheck | None = None, **flags: Any) -> Finding:
    """What is found in the first batch, which is all there is."""
    check = check or LayoutCheck()
    before = {name: value.double().clone() for name, value in model.state_dict().items()}
    run = trainer(**{"fast_dev_run": True, "precision": "64-true", "callbacks": [check]} | flags)
    run.fit(model, DataLoader(TensorDataset(*columns or (X, Y)), batch_size=SAMPLES))
    for name, value in model.state_dict().items():
        assert torch.equal(value.double(), before[name]), "nothing is trained"
    assert (run.global_step, run.counters.samples, run.counters.iterations) == (0, 0, 0)
    assert check.finding is not None
    return check.finding


def what(finding: Finding) -> list[str]:
    return [reason.what for reason in finding.reasons]


def apart_in_a_plain_loop(model: Any, columns: tuple[Tensor, ...], cuts: list[int], name: str) -> float:
    """How far the gradients of a parameter are apart: sum(n_k g_k) / n for each cut, and that of the whole batch."""

    def gradient(sizes: list[int]) -> Tensor:
        fresh = deepcopy(model).double()
        parameter, found = fresh.get_parameter(name), torch.zeros(())
        for i, piece in enumerate(zip(*(column.split(sizes) for column in columns), strict=True)):
            fresh.zero_grad()
            fresh.training_step(list(piece), i).backward()
            found = found + len(piece[0]) / SAMPLES * parameter.grad
        return found

    whole = gradient([SAMPLES])
    return max(float((gradient(even_split(SAMPLES, k)) - whole).norm() / whole.norm()) for k in cuts)


# ---- what is exact ----------------------------------------------------------------------------------------


def test_one_line_if_exact() -> None:
    finding = look(Plain(nn.Tanh(), nn.LayerNorm(8)))
    assert not finding.reasons
    assert 0 < finding.largest < 1e-14, "float32 would be 1e-7"
    line = "exact      the first batch (18 samples), whole and cut in 2 and 4: loss and gradient are the same, to "
    assert finding.text().startswith(line)
    assert "\n" not in finding.text()


@pytest.mark.parametrize(("accumulation", "cuts"), [(3, [3]), (18, [18]), ("auto", [2, 4]), (1, [2, 4])])
def test_how_it_is_cut(accumulation: Any, cuts: list[int]) -> None:
    assert look(Plain(), accumulate_grad_batches=accumulation).cuts == cuts


@pytest.mark.parametrize(("precision", "above"), [("32-true", 1e-9), ("64-true", 0)])
def test_in_another_precision(precision: str, above: float) -> None:
    finding = look(Plain(nn.Tanh()), X.float(), Y.float(), precision=precision)
    assert not finding.reasons
    assert above < finding.largest < 1e-4
    assert what(look(Plain(nn.BatchNorm1d(8)), X.float(), Y.float(), precision=precision)) == ["batch norm"]


class CountsAndLogs(Plain):
    """State that no loss goes by is no reason."""

    def __init__(self) -> None:
        super().__init__(nn.Dropout(0.0))
        self.steps, self.seen, self.mean = 0, list[Tensor](), MeanMetric()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(*batch)
        self.steps += 1
        self.count += 1
        self.seen.append(loss)
        self.mean(loss.detach())
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("mean", self.mean)
        return loss


def test_state_that_does_not_matter() -> None:
    model = CountsAndLogs()
    assert not look(model).reasons
    assert (model.steps, model.seen, int(model.count), model.mean.update_count) == (0, [], 0, 0)


class TakesApart(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        y = batch.pop()
        batch[0].mul_(2)
        return self.loss(batch[0], y)


def test_a_batch_that_is_taken_apart() -> None:
    assert not look(TakesApart()).reasons


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False, track_running_stats=False)])
def test_batch_norm(layer: nn.Module) -> None:
    finding = look(Plain(layer, nn.Tanh()))
    assert what(finding) == ["batch norm"]
    assert "net.layer0" in finding.reasons[0].line
    name = "net.first.weight"
    expected = apart_in_a_plain_loop(Plain(layer, nn.Tanh()), (X, Y), [2, 4], name)
    assert expected > 1e-2
    assert finding.apart[name] == pytest.approx(expected, rel=1e-6)
    assert f"{expected:.1e}  gradient of {name}" in finding.text()


def test_frozen_batch_norm_is_exact() -> None:
    class Frozen(Plain):
        def on_train_start(self) -> None:
            self.net.get_submodule("layer0").eval()

    assert not look(Frozen(nn.BatchNorm1d(8))).reasons


@pytest.mark.parametrize("way", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_spectral_norm(way: Any) -> None:
    def make() -> nn.Module:
        torch.manual_seed(3)
        return way(nn.Linear(8, 8))

    finding = look(Plain(nn.Tanh(), make()))
    assert what(finding) == ["spectral norm"]
    assert "net.layer1" in finding.reasons[0].line
    expected = apart_in_a_plain_loop(Plain(nn.Tanh(), make()), (X, Y), [2, 4], "net.last.weight")
    assert finding.apart["net.last.weight"] == pytest.approx(expected, rel=1e-6)


class MyDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, 0.3, self.training)


class FusedDropout(nn.Module):
    """The kernel that a GPU takes for all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, 0.3, self.training)[0]


@pytest.mark.parametrize("layer", [
    nn.Dropout(0.2), nn.AlphaDropout(0.2), MyDropout(), FusedDropout(),
    nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True),
], ids=["module", "alpha", "function", "fused", "transformer"])  # fmt: skip
def test_dropout(layer: nn.Module) -> None:
    if isinstance(layer, nn.TransformerEncoderLayer):
        layer = nn.Sequential(nn.Unflatten(1, (1, 8)), layer, nn.Flatten())
    assert what(look(Plain(layer, nn.Tanh(), layer))) == ["dropout"]


def test_dropout_that_is_alike_by_accident() -> None:
    """A single layer takes its numbers from one stream, sample after sample: on one CPU the cut does not matter."""
    finding = look(Plain(nn.Dropout(0.2)))
    assert not finding.reasons
    assert "random numbers are drawn, alike here" in finding.text()


class Noise(Plain):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if self.kind == "torch":
            x = x + torch.randn_like(x)
        else:
            x = x * (random.random() if self.kind == "random" else np.random.rand())
        return self.loss(x, y)


@pytest.mark.parametrize("kind", ["torch", "random", "numpy"])
def test_random_numbers(kind: str) -> None:
    assert what(look(Noise(kind))) == ["random numbers"]


# ---- the loss ----------------------------------------------------------------------------------------------


class Loss(Plain):
    """A loss by name; `declared` is what it is said to divide by."""

    def __init__(self, kind: str, *layers: nn.Module, declared: Any = None) -> None:
        super().__init__(*layers, outputs=CLASSES)
        self.kind = kind
        if declared is not None:
            self.loss_weight = declared

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.net(x)
        weights = torch.tensor([0.2, 1.0, 5.0], dtype=x.dtype)
        match self.kind:
            case "labels":
                return cross_entropy(out, y)
            case "class weights":
                return cross_entropy(out, y, weight=weights)
            case "sum":
                return cross_entropy(out, y, reduction="sum")
            case "root":
                return cross_entropy(out, y, reduction="sum") / len(x) ** 0.5
            case "contrastive":
                unit = normalize(out, dim=1)
                return cross_entropy(unit @ unit.T, torch.arange(len(x)))
        raise ValueError(self.kind)


def test_a_mean_over_counted_labels() -> None:
    """Of 18 labels the first 6 are left out: 3 of the first 9 count, and 9 of the last."""
    finding = look(Loss("labels"), X, torch.where(torch.arange(SAMPLES) < 6, -100, LABELS))
    assert what(finding) == ["a mean over something else than samples"]
    line = finding.reasons[0].line
    assert "its 2 parts count 0.25, 0.75 in it, and weigh 0.5, 0.5;" in line
    assert line.endswith("def loss_weight(self, batch): return (batch[1] != -100).sum()")


@pytest.mark.parametrize("kind", ["labels", "class weights", "sum", "root", "contrastive"])
def test_how_far_a_loss_is_apart(kind: str) -> None:
    columns, name = (X, SOME if kind == "labels" else LABELS), "net.last.weight"
    expected = apart_in_a_plain_loop(Loss(kind), columns, [2, 4], name)
    assert expected > 1e-3
    assert look(Loss(kind), *columns).apart[name] == pytest.approx(expected, rel=1e-6)


def test_a_mean_over_class_weights() -> None:
    finding = look(Loss("class weights"), X, LABELS)
    share = torch.tensor([0.2, 1.0, 5.0])[LABELS]
    first = float(share[:9].sum() / share.sum())
    assert what(finding) == ["a mean over something else than samples"]
    assert f"its 2 parts count {first:.4g}, {1 - first:.4g} in it" in finding.reasons[0].line
    assert "the sum of class weights" in finding.reasons[0].line


def test_what_it_asks_for_makes_it_exact() -> None:
    weights = torch.tensor([0.2, 1.0, 5.0])
    finding = look(Loss("class weights", declared=lambda batch: weights[batch[1]].sum()), X, LABELS)
    assert not finding.reasons
    assert 1e-10 < finding.largest < 1e-6, "its sum is of float32: rounding, and told as such"
    assert not look(Loss("class weights", declared=lambda batch: weights.double()[batch[1]].sum()), X, LABELS).reasons
    assert not look(Loss("labels", declared=lambda batch: (batch[1] != -100).sum()), X, SOME).reasons
    assert not look(Loss("sum", declared=lambda batch: None), X, LABELS).reasons


def test_a_wrong_declaration() -> None:
    finding = look(Loss("labels", declared=lambda batch: batch[1].clamp(0).sum() + 1), X, LABELS)
    assert what(finding) == ["a mean over something else than samples"]
    assert "its 2 parts count 0.5, 0.5 in it" in finding.reasons[0].line


@pytest.mark.parametrize(("kind", "found", "says"), [
    ("sum", "a sum", "return None"),
    ("root", "neither a mean nor a sum", "its 2 parts count 0.7071, 0.7071;"),  # sqrt(9 / 18)
    ("contrastive", "not made of its parts", "looks across samples"),
])  # fmt: skip
def test_a_loss_that_is_no_mean(kind: str, found: str, says: str) -> None:
    finding = look(Loss(kind), X, LABELS)
    assert what(finding) == [found]
    assert says in finding.reasons[0].line


def test_a_micro_batch_without_a_label() -> None:
    """The first half has none: its own loss is 0/0."""
    finding = look(Loss("labels"), X, torch.where(torch.arange(SAMPLES) < 9, -100, LABELS))
    assert what(finding) == ["not finite"]
    assert finding.largest == float("inf")
    assert "what is empty weighs 0" in finding.reasons[0].line


def test_too_few_weights_to_tell() -> None:
    class Tiny(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(FEATURES, 1, bias=False))
            self.net[0].weight.requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(()))

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return mse_loss(self.net(x) * self.scale, y, reduction="sum")

    assert what(look(Tiny())) == ["too few weights to tell"]


# ---- state ---------------------------------------------------------------------------------------------------


class LightningsLSTM(L.LightningModule):
    """Lightning's demo, word for word, but for a smaller network and the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = SimpleLSTM(vocab_size=11, ninp=8, nhid=8, nlayers=2, dropout=0.0)
        self.hidden: tuple[Tensor, Tensor] | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        input, target = batch
        if self.hidden is None:
            self.hidden = self.model.init_hidden(input.size(0))
        self.hidden = (self.hidden[0].detach(), self.hidden[1].detach())
        output, self.hidden = self.model(input, self.hidden)
        return nll_loss(output, target.view(-1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=20.0)


def test_carried_state() -> None:
    tokens = torch.randint(11, (SAMPLES, 6), generator=torch.Generator().manual_seed(2))
    columns = tokens[:, :-1], tokens[:, 1:].contiguous()
    finding = look(LightningsLSTM(), *columns, accumulate_grad_batches=3)
    assert what(finding) == ["state"]
    assert "(hidden)" in finding.reasons[0].line
    name = "model.decoder.weight"
    expected = apart_in_a_plain_loop(LightningsLSTM(), columns, [3], name)
    assert expected > 1e-6
    assert finding.apart[name] == pytest.approx(expected, rel=1e-6)


class Carries(Plain):
    """A running mean of its outputs, in a buffer or a plain attribute, that its loss goes by."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.plain, self.others = where, torch.zeros(()), {"mean": torch.zeros(())}
        self.register_buffer("buffer", torch.zeros(()))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.net(x)
        before = self.others["mean"] if self.where == "others" else getattr(self, self.where)
        now = 0.9 * before + 0.1 * out.detach().mean()
        if self.where == "others":
            self.others["mean"] = now
        else:
            setattr(self, self.where, now)
        return mse_loss(out - before, y)


@pytest.mark.parametrize("where", ["buffer", "plain", "others"])
def test_a_running_mean(where: str) -> None:
    finding = look(Carries(where))
    assert what(finding) == ["state"]
    assert f"({where})" in finding.reasons[0].line
    expected = apart_in_a_plain_loop(Carries(where), (X, Y), [2, 4], "net.last.weight")
    assert finding.apart["net.last.weight"] == pytest.approx(expected, rel=1e-6)


def test_state_that_is_out_of_reach() -> None:
    kept = {"calls": 0}

    class Elsewhere(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            kept["calls"] += 1
            return self.loss(*batch) * kept["calls"]

    assert what(look(Elsewhere())) == ["not repeatable"]


class Clips(Plain):
    """Halves a weight in training_step, as those do that clip or average there."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            self.net.get_submodule("first").weight.mul_(0.5)  # pyright: ignore
        return self.loss(*batch)


def test_weights_that_are_changed_in_training_step() -> None:
    finding = look(Clips(nn.Tanh()))
    assert what(finding) == ["weights"]
    assert "(net.first.weight)" in finding.reasons[0].line
    expected = apart_in_a_plain_loop(Clips(nn.Tanh()), (X, Y), [2, 4], "net.last.weight")
    assert finding.apart["net.last.weight"] == pytest.approx(expected, rel=1e-6)


class Shortens(Callback):
    """Brings the gradient to a length, after each backward pass."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        nn.utils.clip_grad_norm_(pl_module.parameters(), 1e-3)


class Watches(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        assert all(p.grad is not None for p in pl_module.parameters())


def test_gradients_that_are_changed_after_each_backward_pass() -> None:
    check = LayoutCheck()
    assert what(look(Plain(nn.Tanh()), callbacks=[Shortens(), Watches(), check], check=check)) == ["gradients changed"]
    assert not look(Plain(nn.Tanh()), callbacks=[Watches(), check], check=check).reasons

    class Own(Plain):
        def on_after_backward(self) -> None:
            nn.utils.clip_grad_norm_(self.parameters(), 1e-3)

    finding = look(Own(nn.BatchNorm1d(8)))
    assert what(finding) == ["batch norm", "gradients changed"]
    assert "on_after_backward (Own)" in finding.reasons[1].line


# ---- several at once -------------------------------------------------------------------------------------------


def test_several_reasons() -> None:
    found = look(Loss("labels", nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Dropout(0.1)), X, SOME)
    assert what(found) == ["a mean over something else than samples", "batch norm", "dropout"]
    found = look(Loss("contrastive", nn.BatchNorm1d(8), nn.Dropout(0.1)), X, LABELS)
    assert what(found) == ["not made of its parts", "batch norm", "dropout"]
    text = found.text().splitlines()
    assert text[0].startswith("not exact  the first batch (18 samples)")
    assert [line[:10] for line in text[-3:]] == ["reason    "] * 3


def test_a_reason_without_effect_is_none() -> None:
    """A layer that is there and not used."""

    class Unused(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.BatchNorm1d(4)

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return mse_loss(self.net(x), y, reduction="sum")

    assert what(look(Unused())) == ["a sum"]


# ---- what cannot be looked at ----------------------------------------------------------------------------------


def test_manual_optimization() -> None:
    with pytest.raises(InputError, match="ManualOptimBoringModel optimizes manually"):
        trainer(fast_dev_run=True, callbacks=[LayoutCheck()]).fit(ManualOptimBoringModel())


def test_no_training_data() -> None:
    with pytest.raises(InputError, match="no training batch to look at"):
        trainer(max_epochs=1, limit_train_batches=0, callbacks=[LayoutCheck()]).fit(BoringModel())


def test_one_sample() -> None:
    with pytest.raises(InputError, match="has 1 sample: nothing to cut"):
        trainer(fast_dev_run=True, callbacks=[LayoutCheck()]).fit(BoringModel())


def test_several_devices() -> None:
    run = trainer(fast_dev_run=True, devices=2, strategy="ddp_fork", callbacks=[LayoutCheck()])
    with pytest.raises(ProcessRaisedException, match="InputError: a layout is looked at on one device"):
        run.fit(BoringModel())


def test_another_trainer() -> None:
    with pytest.raises(InputError, match="this is another"):
        L.Trainer(fast_dev_run=True, accelerator="cpu", callbacks=[LayoutCheck()]).fit(BoringModel())


def test_a_loss_that_is_not_finite() -> None:
    with pytest.raises(RunFailed, match="not finite, whole already"):
        look(Loss("labels"), X, torch.full_like(LABELS, -100))


def test_a_module_that_wants_float32() -> None:
    class Casts(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(*(column.float() for column in batch))

    with pytest.raises(InputError, match=r"does not work in float64.*trainer\.precision=32-true"):
        look(Casts())
    assert not look(Casts(), X.float(), Y.float(), precision="32-true").reasons


def test_the_seeds_are_those_of_the_step() -> None:
    """The numbers that are drawn are those that the first step of a run would draw."""
    seen: list[Tensor] = []

    class Keeps(Noise):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(torch.rand(3))
            return self.loss(*batch)

    look(Keeps("torch"), seed=SEED)
    first = seen[0]
    seen.clear()
    trainer(max_steps=1, precision="64-true", seed=SEED).fit(
        Keeps("torch"), DataLoader(TensorDataset(X, Y), batch_size=SAMPLES)
    )
    assert torch.equal(seen[0], first)
