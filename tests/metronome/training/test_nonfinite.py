"""A step that is not finite: found before its update, and told with its samples; or left out."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import FEATURES, SEED, Data, N, Net, X, Y, fit, network, trainer, weights
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torchmetrics import MeanMetric

from metronome.training import Checkpoint
from metronome.training.batches.seeds import epoch_order
from metronome.training.guards import agreement
from metronome.training.guards.nonfinite import Watch
from metronome.units import InputError, RunFailed

TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}
ORDERS = [epoch_order(SEED, epoch, N).tolist() for epoch in range(4)]
BAD = ORDERS[0][3 * 32 + 20]  # in the fourth step of the first epoch


def step_of(sample: int, epoch: int = 0) -> int:
    """The step whose batch holds a sample, from 0."""
    return epoch * 5 + ORDERS[epoch].index(sample) // 32


class Bad(Data):
    """Some training samples are not a number."""

    def __init__(self, *bad: int, value: float = math.nan, num_samples: int = N, **options: Any) -> None:
        super().__init__(num_samples, **{"batch_size": 32, **options})
        self.bad, self.value = bad, value

    def load(self) -> Any:
        x, y = X[: self.size].clone(), Y[: self.size]
        x[list(self.bad)] = self.value
        return super().load()._replace(train=(x, y))


class Before(Net):
    """Keeps the weights that each step begins with."""

    def __init__(self, optimizer: str = "sgd", record: Path | None = None) -> None:
        super().__init__(optimizer=optimizer, record=record)
        self.before: list[Tensor] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.before.append(weights(self).clone())

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step_losses.append(float(outputs["loss"]))


def plain_steps(steps: int) -> Iterator[tuple[nn.Module, float]]:
    """The plain loop, step by step: its net before each update, and the rate of the update."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    batches = [batch for order in ORDERS for batch in torch.tensor(order).split(32)]
    for batch in batches[:steps]:
        yield net, optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
        optimizer.step()
        schedule.step()
    yield net, optimizer.param_groups[0]["lr"]


# ---- stopped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("place", [0, 7, 2 * 32 + 31, 4 * 32 + 28])  # of the bad sample in the first epoch
def test_it_stops_before_the_update(place: int, accumulation: int) -> None:
    bad = ORDERS[0][place]
    step = step_of(bad)
    model, run = Before(), trainer(max_epochs=4, accumulate_grad_batches=accumulation)
    with pytest.raises(RunFailed) as failure:
        run.fit(model, datamodule=Bad(bad))
    (net, rate) = list(plain_steps(step))[-1]
    torch.testing.assert_close(weights(model), weights(net), rtol=1e-12, atol=1e-15)
    assert torch.equal(weights(model), model.before[-1])
    assert len(model.before) == step + 1
    samples = ORDERS[0][step * 32 : (step + 1) * 32]
    told = f"{', '.join(map(str, samples[:8]))} and {len(samples) - 8} more"
    assert str(failure.value) == (
        f"the loss is not finite in step {step + 1} (epoch 1): loss nan, gradient norm nan, learning rate {rate:.4g}, "
        f"samples {told}; a lower rate may help, or trainer.on_nonfinite=skip"
    )
    (entry,) = run.nonfinite
    assert bad in entry["samples"]
    assert (entry["step"], entry["epoch"], entry["samples"]) == (step + 1, 1, samples)
    assert entry["learning_rate"] == pytest.approx(rate)
    assert math.isnan(entry["loss"])
    assert math.isnan(entry["gradient_norm"])
    assert run.global_step == step


def test_in_a_later_epoch_and_resumed(tmp_path: Path) -> None:
    """A growing batch: 32 samples, then 64: the third step of the second epoch is the last."""

    class Later(Before):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * math.nan if (self.current_epoch, batch_idx) == (1, 2) else loss

    save = Checkpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    runs: list[dict[str, Any]] = [
        {"callbacks": [save], "enable_checkpointing": True},
        {"checkpoint": str(tmp_path / "step=6.ckpt")},
    ]
    for flags in runs:
        with pytest.raises(RunFailed, match=r"^the loss is not finite in step 8 \(epoch 2\)") as failure:
            fit(model=Later(), data=Data(batch_size=32, batch_growth={"factor": 2}), **flags)
        assert f"samples {', '.join(map(str, ORDERS[1][128:136]))} and 21 more;" in str(failure.value)
    assert len(list(tmp_path.glob("*.ckpt"))) == 7


class Strange(Before):
    """Something happens in the third step, to a parameter that is 0."""

    def __init__(self, kind: str, optimizer: str = "sgd", step: int = 2) -> None:
        super().__init__(optimizer)
        self.kind, self.step = kind, step
        self.zero = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step != self.step:
            return loss + 0 * self.zero.sum()
        if self.kind == "infinite gradient":
            return loss + self.zero.sqrt().sum()
        if self.kind == "gradient that is not a number":
            return loss + (0 * self.zero).sqrt().sum()
        return loss + (-math.inf if self.kind == "loss of -inf" else math.inf)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("infinite gradient", r"^the gradient is not finite in step 3 \(epoch 1\): loss \d.*, gradient norm inf,"),
        ("gradient that is not a number", r"^the gradient is not finite in step 3 .*: loss \d.*, gradient norm nan,"),
        ("loss of inf", r"^the loss is not finite in step 3 \(epoch 1\): loss inf, gradient norm \d"),
        ("loss of -inf", r"^the loss is not finite in step 3 \(epoch 1\): loss -inf, gradient norm \d"),
    ],
)
@pytest.mark.parametrize("flags", [{}, {"gradient_clip_val": 0.05}, {"accumulate_grad_batches": 2}])
def test_kinds(kind: str, line: str, flags: dict[str, Any]) -> None:
    model = Strange(kind)
    with pytest.raises(RunFailed, match=line) as failure:
        fit(model=model, **flags)
    assert "\n" not in str(failure.value)
    assert torch.equal(weights(model), model.before[2])


def test_lbfgs_stops() -> None:
    model = Before(optimizer="lbfgs")
    with pytest.raises(RunFailed, match=r"^the loss is not finite in step 4 .*learning rate 0\.1, samples"):
        fit(model=model, data=Bad(BAD))
    assert torch.equal(weights(model), model.before[3])


def test_large_numbers_are_finite() -> None:
    """In float64; float32 ends at 3e38."""

    class Large(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return 1e100 * super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-103)

        def on_train_batch_end(self, *_: Any) -> None: ...

    _, run = fit(model=Large(), max_epochs=1)
    assert run.nonfinite == []


def test_a_loss_with_a_dimension() -> None:
    class OneDimension(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx)[None]

    model, _ = fit(model=OneDimension(), max_epochs=1)
    assert torch.equal(weights(model), weights(fit(max_epochs=1)[0]))


class Half(Before):
    """The loss of a step is infinite, its gradient is not."""

    def __init__(self, bad_step: int | None = 2) -> None:
        super().__init__()
        self.net, self.bad_step = self.net.float(), bad_step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0].float()), batch[1].float())
        return loss + math.inf if self.trainer.global_step == self.bad_step else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None: ...

    def on_train_epoch_end(self) -> None: ...


def test_under_a_gradient_scaler() -> None:
    """Its own overflows are its own affair, and it takes no part in a step that is left out."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    model, run = fit(model=Half(), plugins=[plugin], on_nonfinite="skip", max_epochs=1)
    assert torch.equal(model.before[3], model.before[2])
    assert not torch.equal(model.before[4], model.before[3])
    assert plugin.scaler is not None
    assert plugin.scaler.get_scale() == 2**10
    (entry,) = run.nonfinite
    assert (entry["step"], entry["loss"], entry["gradient_norm"]) == (3, math.inf, None)
    assert run.global_step == 5
    with pytest.raises(RunFailed, match=r"^the loss is not finite in step 3 \(epoch 1\): loss inf, learning rate"):
        fit(model=Half(), plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))])
    huge = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**126))
    model, run = fit(model=Half(None), plugins=[huge], max_epochs=1)
    assert torch.equal(model.before[1], model.before[0])
    assert run.nonfinite == []


def test_gradients_that_are_sparse() -> None:
    class Table(Net):
        def __init__(self, bad_step: int | None = None) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.bad_step = bad_step
            self.table = nn.Embedding(7, FEATURES, sparse=True).double()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            rows = self.table(torch.arange(len(batch[0])) % 3)
            if self.trainer.global_step == self.bad_step:
                rows = rows * math.nan
            return nn.functional.mse_loss(self.net(batch[0] + rows), batch[1])

        def on_train_batch_end(self, *_: Any) -> None: ...

    model, _ = fit(model=Table(), max_epochs=1)
    assert not torch.equal(model.table.weight[0], Table().table.weight[0])
    with pytest.raises(RunFailed, match="the loss is not finite in step 2"):
        fit(model=Table(1), max_epochs=1)


def test_two_devices_stop_together() -> None:
    """Only the second device's share holds the bad sample: the second half of the fourth batch."""
    with pytest.raises(
        Exception, match=r"RunFailed: the loss is not finite in step 4 \(epoch 1\): loss nan"
    ) as failure:
        fit(model=Before(), data=Bad(BAD), **TWO)
    assert f"samples {', '.join(map(str, ORDERS[0][96:104]))} and 24 more;" in str(failure.value)


@pytest.mark.parametrize("word", ["", "Stop", "ignored", None, True])
def test_another_word(word: Any) -> None:
    with pytest.raises(InputError, match=rf"^trainer\.on_nonfinite={word} is not known; use stop, skip or ignore$"):
        trainer(on_nonfinite=word)


# ---- large, or mended by the module -------------------------------------------------------------------------


class Large(Net):
    """Whose gradient is finite, and the square of it is not in its own precision."""

    def __init__(self, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale, self.table = scale, nn.Embedding(7, FEATURES, sparse=True)
        self.to(dtype)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        weight: Any = self.table.weight if batch_idx % 2 else self.net[0].weight  # pyright: ignore
        taken = self.table(torch.zeros(1, dtype=torch.long)) if batch_idx % 2 else weight
        return (taken * self.scale).sum() * 0.5 + 0 * x.sum().to(weight.dtype)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("word", ["stop", "skip"])
@pytest.mark.parametrize(
    ("scale", "dtype"), [(1.2e4, torch.float16), (1e30, torch.bfloat16), (1e30, torch.float32), (1e200, torch.float64)]
)
def test_a_large_gradient_is_finite(scale: float, dtype: torch.dtype, word: str) -> None:
    norm = torch._foreach_norm([torch.full((16 * FEATURES,), scale * 0.5, dtype=dtype)])[0]  # pyright: ignore
    assert not norm.isfinite()
    model, run = Large(scale, dtype), trainer(max_epochs=1, on_nonfinite=word, limit_val_batches=0)
    model.log = lambda *_, **__: None  # pyright: ignore
    model.on_train_batch_end = model.on_train_epoch_end = lambda *_: None  # pyright: ignore
    run.fit(model, datamodule=Data(batch_size=32))
    assert (run.global_step, run.nonfinite) == (5, [])


@pytest.mark.parametrize("flags", [{}, {"accumulate_grad_batches": "auto"}, {"accumulate_grad_batches": 2}])
def test_a_module_that_mends_its_gradient_itself(flags: dict[str, Any]) -> None:
    class Mends(Before):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            for parameter in self.parameters():
                assert parameter.grad is not None
                parameter.grad.nan_to_num_(0.0)

    model, run = Mends(), trainer(max_epochs=1, on_nonfinite="ignore", **flags)
    run.fit(model, datamodule=Bad(BAD))
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    x = X.clone()
    x[BAD] = math.nan
    for batch in torch.tensor(ORDERS[0]).split(32):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x[batch]), Y[batch]).backward()
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.grad.nan_to_num_(0.0)
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(weights(model), weights(net), rtol=1e-12, atol=1e-15)
    assert run.nonfinite == []
    with pytest.raises(RunFailed):
        trainer(max_epochs=1, **flags).fit(Mends(), datamodule=Bad(BAD))


# ---- left out ----------------------------------------------------------------------------------------------


class Skips(Net):
    """BatchNorm, torchmetrics, and a choice of optimizers."""

    def __init__(self, optimizer: str = "sgd", record: Path | None = None) -> None:
        super().__init__(optimizer=optimizer, record=record)
        self.net, self.mean = with_batchnorm(), MeanMetric()
        self.metrics: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.mean.update(batch[1])
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step_losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.metrics.append(float(self.trainer.callback_metrics["mean"]))

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.optimizer_name, self.net)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def with_batchnorm() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)).double()


def optimizer_of(name: str, net: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def plain_skips(
    bad: set[int], optimizer_name: str, clip: float | None = None, pieces: int = 1
) -> tuple[nn.Module, list[float], list[float]]:
    """The plain loop without the updates of these batches: its net, and what each epoch means of loss and target."""
    net, losses, targets = with_batchnorm(), [], []
    optimizer = optimizer_of(optimizer_name, net)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for order in ORDERS:
        total, target, count = 0.0, 0.0, 0
        for batch in torch.tensor(order).split(32):
            if not bad & set(batch.tolist()):
                optimizer.zero_grad()
                for piece in batch.tensor_split(pieces):
                    loss = nn.functional.mse_loss(net(X[piece]), Y[piece])
                    (loss if pieces == 1 else loss * (len(piece) / len(batch))).backward()
                    total += loss.item() * len(piece)
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                target, count = target + Y[batch].sum().item(), count + len(batch)
            schedule.step()
        losses.append(total / count)
        targets.append(target / count)
    return net, losses, targets


@pytest.mark.parametrize(
    ("optimizer", "clip", "accumulation"),
    [("sgd", None, 1), ("adam", None, 1), ("sgd", 0.05, 1), ("adam", 0.05, 3)],
)
@pytest.mark.parametrize("places", [[100], [0], [20, 150, 153]], ids=["one", "in the first step", "three"])
def test_a_step_is_left_out(optimizer: str, clip: float | None, accumulation: int, places: list[int]) -> None:
    """As if its batch were not there, but for the step and the rate; bitwise."""
    bad = {ORDERS[0][place] for place in places}
    net, losses, targets = plain_skips(bad, optimizer, clip, accumulation)
    flags = {"gradient_clip_val": clip, "accumulate_grad_batches": accumulation, "on_nonfinite": "skip"}
    model, run = fit(model=Skips(optimizer), data=Bad(*bad), **flags)
    for (name, found), expected in zip(model.net.state_dict().items(), net.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
    assert model.epoch_means == pytest.approx(losses, rel=1e-12)
    assert model.metrics == pytest.approx(targets, rel=1e-5)  # float32
    expected_steps = sorted({step_of(sample, epoch) + 1 for sample in bad for epoch in range(4)})
    assert [entry["step"] for entry in run.nonfinite] == expected_steps
    for entry in run.nonfinite:
        step = entry["step"] - 1
        assert entry["samples"] == ORDERS[step // 5][step % 5 * 32 : (step % 5 + 1) * 32]
        assert entry["epoch"] == step // 5 + 1
    assert (run.global_step, run.counters.samples) == (20, 4 * N)
    assert run.counters.iterations == 20 * accumulation
    assert [math.isnan(loss) for loss in model.step_losses] == [step + 1 in expected_steps for step in range(20)]
    assert all(math.isfinite(loss) for loss in model.val_losses)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx({"sgd": 0.01, "adam": 0.001}[optimizer])


def test_infinite_gradients_are_left_out() -> None:
    """Which clipping alone would turn into weights that are not a number."""
    with_bad, run = fit(model=Strange("infinite gradient"), on_nonfinite="skip", gradient_clip_val=1.0, max_epochs=1)
    assert torch.equal(with_bad.before[3], with_bad.before[2])
    assert not torch.equal(with_bad.before[4], with_bad.before[3])
    assert torch.isfinite(weights(with_bad)).all()
    (entry,) = run.nonfinite
    assert (entry["step"], entry["gradient_norm"]) == (3, math.inf)
    assert math.isfinite(entry["loss"])


def test_lbfgs_leaves_a_step_out() -> None:
    model, run = fit(model=Before(optimizer="lbfgs"), data=Bad(BAD), on_nonfinite="skip", max_epochs=1)
    assert [entry["step"] for entry in run.nonfinite] == [4]
    assert torch.equal(model.before[4], model.before[3])
    assert not torch.equal(weights(model), model.before[4])
    assert torch.isfinite(weights(model)).all()


def test_nothing_is_left_out_of_a_finite_training() -> None:
    """And what it draws is the same."""
    results = [fit(model=Net(dropout=0.2), on_nonfinite=word) for word in ("stop", "skip")]
    assert torch.equal(*(weights(model) for model, _ in results))
    assert [run.nonfinite for _, run in results] == [[], []]


def test_an_interrupted_run_remembers_them(tmp_path: Path) -> None:
    save = Checkpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    model, run = fit(
        model=Skips(), data=Bad(BAD), on_nonfinite="skip", callbacks=[save], enable_checkpointing=True, max_epochs=2
    )
    for step in (3, 4, 5):
        path = str(tmp_path / f"step={step}.ckpt")
        again, rerun = fit(model=Skips(), data=Bad(BAD), on_nonfinite="skip", checkpoint=path, max_epochs=2)
        assert torch.equal(weights(again), weights(model))
        assert [e["step"] for e in rerun.nonfinite] == [e["step"] for e in run.nonfinite] == [4, step_of(BAD, 1) + 1]
        assert again.epoch_means[-1] == model.epoch_means[-1]


def test_many_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines in the log; a thousand of them are remembered."""
    _, run = fit(model=Before(), data=Bad(*range(N)), on_nonfinite="skip", max_epochs=3, limit_val_batches=0)
    lines = [record.message for record in caplog.records if record.message.startswith("left out: the loss")]
    assert len(lines) == 10
    assert [line.endswith("in result.json only") for line in lines] == [False] * 9 + [True]
    assert len(run.nonfinite) == 15


@pytest.mark.parametrize("flags", [{}, {"accumulate_grad_batches": "auto"}], ids=["ddp", "auto"])
def test_two_devices_leave_it_out_together(flags: dict[str, Any], tmp_path: Path) -> None:
    """Only the second device's share holds the bad sample; and a last batch of which it has none (129 samples)."""

    class Records(Before):
        def on_train_end(self) -> None:
            folder = tmp_path / f"{self.global_rank}.pt"
            torch.save((weights(self), self.epoch_means, self.trainer.nonfinite), folder)  # pyright: ignore

    order = [epoch_order(SEED, epoch, 129).tolist() for epoch in range(2)]
    bad = order[0][90]
    net, losses = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in order:
        total = 0.0
        for batch in torch.tensor(epoch).split(32):
            if bad not in batch:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(net(X[batch]), Y[batch])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch)
            schedule.step()
        losses.append(total / (129 - (1 if epoch[128] == bad else 32)))
    fit(model=Records(), data=Bad(bad, num_samples=129), on_nonfinite="skip", max_epochs=2, **TWO, **flags)
    for rank in (0, 1):
        trained, means, nonfinite = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(trained, weights(net), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(torch.tensor(means), torch.tensor(losses), rtol=1e-12, atol=1e-15)
        assert [entry["step"] for entry in nonfinite] == [3, 5 + order[1].index(bad) // 32 + 1]
        assert all(bad in entry["samples"] for entry in nonfinite)


@pytest.mark.parametrize("layout", [{}, TWO], ids=["one", "two"])
def test_what_a_step_that_is_left_out_has_logged(layout: dict[str, Any], tmp_path: Path) -> None:
    """It is not seen after it; the values of the step before stay, over all devices."""

    class Records(Before):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.logged.append(float(self.trainer.callback_metrics.get("loss_step", -1.0)))

        def on_train_end(self) -> None:
            torch.save(self.logged, tmp_path / f"{self.global_rank}.pt")

    order = epoch_order(SEED, 0, N)
    fit(model=Records(), data=Bad(order[0], order[80]), on_nonfinite="skip", max_epochs=1, **layout)
    for rank in range(layout.get("devices", 1)):
        none, second, third, fourth, _ = torch.load(tmp_path / f"{rank}.pt")
        mean = nn.functional.mse_loss(network()(X[order[32:64]]), Y[order[32:64]]).item()
        assert (none, second) == (-1, pytest.approx(mean, rel=1e-6))
        assert third == second != fourth


# ---- on a device that is behind -----------------------------------------------------------------------------


class Late:
    """Stands for the event of a GPU that is so many steps behind."""

    sent = 0

    def __init__(self, behind: int) -> None:
        Late.sent += 1
        self.due = Late.sent + behind

    def query(self) -> bool:
        return self.due <= Late.sent

    def synchronize(self) -> None:
        self.due = 0


@pytest.fixture
def behind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """By how many steps."""
    monkeypatch.setattr(Watch, "_is_far", lambda self, values: True)
    monkeypatch.setattr(Watch, "_send", lambda self, values: (values.clone(), Late(request.param)))
    return request.param


def line_of(step: int, epoch: int, order: list[int]) -> str:
    return (
        rf"^the loss is not finite in step {step} \(epoch {epoch}\): loss nan, gradient norm nan, learning rate "
        rf"{0.1 * (1 - 0.9 * (step - 1) / 20):.4g}, samples {', '.join(map(str, order[:8]))} and {len(order) - 8} more;"
    )


@pytest.mark.parametrize("behind", [0, 1, 3], indirect=True)
@pytest.mark.parametrize("place", [5, 100, 140])  # in the last step, the event arrives in the next epoch
def test_a_late_event_stops_the_run_soon(behind: int, place: int) -> None:
    bad = ORDERS[0][place]
    step, model = step_of(bad), Before()
    with pytest.raises(RunFailed, match=line_of(step + 1, 1, ORDERS[0][step * 32 : step * 32 + 32])):
        fit(model=model, data=Bad(bad), limit_val_batches=0)
    # looked at before the next step, or so many steps later
    assert len(model.before) == step + 1 + behind


@pytest.mark.parametrize("behind", [10**6], indirect=True)
@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ({}, 5),  # the validation at the end of the epoch waits for it
        ({"val_check_interval": 2}, 4),
        ({"limit_val_batches": 0, "max_epochs": 2}, 10),  # and so does the end
        ({"limit_val_batches": 0, "max_epochs": 14}, 3 + 1 + 64),  # no more than 64 steps are unknown
    ],
)
def test_a_device_that_is_never_asked(behind: int, flags: dict[str, Any], steps: int) -> None:
    model = Before()
    with pytest.raises(RunFailed, match=line_of(4, 1, ORDERS[0][96:128])):
        fit(model=model, data=Bad(BAD), **flags)
    assert len(model.before) == steps


@pytest.mark.parametrize("behind", [2, 10**6], indirect=True)
@pytest.mark.parametrize("module", [ModelCheckpoint, Checkpoint])
@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_no_checkpoint_has_bad_weights(behind: int, module: Any, every: int, tmp_path: Path) -> None:
    save = module(tmp_path, "{step}", every_n_train_steps=every, save_top_k=-1, save_last=True)
    model, run = Before(), trainer(max_epochs=2, limit_val_batches=0, callbacks=[save], enable_checkpointing=True)
    with pytest.raises(RunFailed, match=line_of(4, 1, ORDERS[0][96:128])):
        run.fit(model, datamodule=Bad(BAD))
    assert len(run.nonfinite) == 1
    assert {path.stem for path in tmp_path.glob("step=*")} == {f"step={step}" for step in range(every, 4, every)}
    for path in tmp_path.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert all(torch.isfinite(tensor).all() for tensor in saved["state_dict"].values())
    with pytest.raises(RunFailed, match="step 4"):
        run.save_checkpoint(tmp_path / "by hand.ckpt")


@pytest.mark.parametrize("behind", [2], indirect=True)
def test_the_same_trainer_again(behind: int) -> None:
    """What was found, or is still on its way, is of the run before."""
    run = trainer(max_epochs=2, limit_val_batches=0)
    with pytest.raises(RunFailed):
        run.fit(Before(), datamodule=Bad(BAD))
    run.fit(Before(), datamodule=Data(batch_size=32))
    assert len(run.nonfinite) == 1


@pytest.mark.parametrize("behind", [3], indirect=True)
@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 8), (0.05, None)])
def test_two_devices_that_are_behind(
    behind: int, seconds: float, steps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one more than the first: it is waited for. What the first has found goes round in one more step, or
    where steps are short in some more; and all stop after the same one."""
    monkeypatch.setattr(agreement, "_SECONDS", seconds)

    class Further(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            torch.save(trainer.global_step, tmp_path / f"{trainer.global_rank}.pt")
            if trainer.global_rank:
                trainer._watch._on_the_way[-1].arrived.due += 5

    with pytest.raises(Exception, match=r"RunFailed: the loss is not finite in step 4 \(epoch 1\)"):
        fit(model=Before(), data=Bad(BAD), callbacks=[Further()], limit_val_batches=0, **TWO)
    ends = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert ends == [steps or ends[0]] * 2


# ---- the look itself -------------------------------------------------------------------------------------


class Looks(Watch):
    """At these gradients."""

    def __init__(self, *gradients: Tensor) -> None:
        self.trainer: Any = None
        self.keeps_norm = False
        self.gradients = list(gradients)

    def _gradients(self) -> list[Tensor]:
        return self.gradients

    def finds(self, loss: float = 1.0) -> bool:
        return not self._are_finite_here(torch.tensor(loss))


GRADIENTS = {
    "float32": (torch.tensor([1e-45, -0.0, 3.4e38, 3.4e38]), torch.randn(3, 5)),  # whose norm is not finite
    "float64": (torch.randn(7, dtype=torch.float64),),
    "of two kinds": (torch.randn(3), torch.randn(3, dtype=torch.float64), torch.randn(2, dtype=torch.bfloat16)),
    "in another order": (torch.randn(4, 6).t(), torch.randn(4, 6)[:, ::2]),
    "a view of one number": (torch.ones(1).expand(5),),
    "complex": (torch.randn(4, dtype=torch.complex64),),
    "sparse": (torch.eye(3).to_sparse(),),
    "that have gradients": (torch.randn(3, requires_grad=True),),
    "empty": (torch.empty(0), torch.tensor(2.0)),
    "none": (),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_the_look_finds_what_is_there_and_changes_nothing(kind: str) -> None:
    given = GRADIENTS[kind]
    before = [gradient.detach().clone() for gradient in given]
    assert not Looks(*given).finds()
    for gradient, same in zip(given, before, strict=True):
        assert torch.equal(torch.as_tensor(gradient.to_dense()), torch.as_tensor(same.to_dense()))
        assert gradient._version == 0
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert Looks(*given, torch.tensor([1.0, bad])).finds()
        assert Looks(*given).finds(loss=bad)
        for i, gradient in enumerate(before):
            if gradient.numel():
                assert Looks(*given[:i], gradient * bad, *given[i + 1 :]).finds()
