"""The callback against gradients worked out beside it, on every layout; and that it leaves the training as it was."""

from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from commands import Commands
from jobs import Data, Net, fit, weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from metronome.insight import NoiseScale
from metronome.units import InputError

KEEP = 0.9  # over=10
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}


def sums_of(callback: NoiseScale) -> list[float]:
    return callback.state_dict()["sums"]


class Beside(Callback):
    """Works out what the callback is to find, before each step that is due: each piece's gradient by itself."""

    def __init__(self, pieces: int, every: int, loss: Any = nn.functional.mse_loss) -> None:
        self.pieces, self.every, self.loss, self.sums = pieces, every, loss, torch.zeros(3, dtype=torch.float64)

    def gradient(self, module: Any, x: Tensor, y: Tensor) -> Tensor:
        found = torch.autograd.grad(self.loss(module.net(x), y), list(module.net.parameters()))
        return torch.cat([g.flatten() for g in found])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every:
            return
        x, y = batch
        whole = self.gradient(pl_module, x, y)
        squares = [
            (len(a), self.gradient(pl_module, a, b).square().sum())
            for a, b in zip(x.tensor_split(self.pieces), y.tensor_split(self.pieces), strict=True)
        ]
        n, m = len(x), self.pieces
        trace = (sum(k * square for k, square in squares) - n * whole.square().sum()) / (m - 1)  # between the groups
        found = torch.stack([whole.square().sum() - trace / n, trace, torch.ones_like(trace)])
        self.sums = KEEP * self.sums + (1 - KEEP) * found


@pytest.mark.parametrize(("accumulate", "every"), [(1, 1), (2, 3), (4, 1), (5, 2)])
def test_against_gradients_worked_out_beside(accumulate: int, every: int) -> None:
    """Batches of 32 and a last one of 29: unequal pieces. One micro-batch is cut in two."""
    callback, beside = NoiseScale(every, over=10), Beside(max(accumulate, 2), every)
    module, _ = fit(callbacks=[beside, callback], accumulate_grad_batches=accumulate)
    assert sums_of(callback) == pytest.approx(beside.sums.tolist(), rel=1e-10)
    plain, _ = fit(accumulate_grad_batches=accumulate)
    if accumulate == 1:
        torch.testing.assert_close(weights(module), weights(plain), rtol=1e-12, atol=1e-14)
    else:
        assert torch.equal(weights(module), weights(plain))


class Kept(NoiseScale):
    """Leaves what it has found in a file: the training is in other processes."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(over=10, **options)
        self.path = path

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        torch.save(sums_of(self), f"{self.path}{trainer.global_rank}")


def on_devices(folder: Path, data: dict[str, Any], *callbacks: Any, **flags: Any) -> Tensor:
    path = folder / "seen"
    fit(model=Net(record=path), data=Data(**data), callbacks=list(callbacks), **flags)
    return torch.load(path)["weights"]


@pytest.mark.parametrize(
    ("devices", "accumulate"),
    [(2, 2), *[pytest.param(d, k, marks=pytest.mark.slow) for d, k in ((2, 1), (2, 3), (3, 1), (3, 2), (2, "auto"))]],
)
def test_devices(devices: int, accumulate: Any, tmp_path: Path) -> None:
    """As many pieces on one device give the same estimate, and the weights are those without it, bit by bit."""
    pieces = devices * (1 if accumulate == "auto" else accumulate)
    flags: dict[str, Any] = TWO | {"devices": devices, "accumulate_grad_batches": accumulate}
    # 29 samples in four pieces are 8, 7, 7, 7 on one device as on two; but 32 in six are not the same six.
    data: dict[str, Any] = {"batch_size": 32} if pieces < 6 else {"batch_size": 24, "drop_last": True}
    measured = on_devices(tmp_path, data, Kept(tmp_path / "sums", every=2), **flags)
    assert torch.equal(measured, on_devices(tmp_path, data, **flags))
    alone = NoiseScale(every=2, over=10)
    fit(data=Data(**data), callbacks=[alone], accumulate_grad_batches=pieces)
    for rank in range(devices):
        assert torch.load(tmp_path / f"sums{rank}") == pytest.approx(sums_of(alone), rel=1e-10)


class Saves(Callback):
    """Saves once, from a hook."""

    def __init__(self, hook: str, path: Path, step: int) -> None:
        self.path, self.step = path, step
        setattr(self, hook, self._save)

    def _save(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_before_optimizer_step"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_goes_on_measures_on(hook: str, accumulate: int, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole = NoiseScale(every=3, over=10)
    module, _ = fit(callbacks=[whole, Saves(hook, tmp_path / "mid.ckpt", 9)], **flags)
    resumed = NoiseScale(every=3, over=10)
    again, _ = fit(callbacks=[resumed], checkpoint=str(tmp_path / "mid.ckpt"), **flags)
    assert sums_of(resumed) == sums_of(whole)
    assert torch.equal(weights(again), weights(module))


class Weighted(Net):
    """A mean over weights of samples, their first feature squared, or the sum of their losses."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        losses = (self.net(x) - y).square().mean(1)
        if self.kind == "sum":
            return losses.sum() / 1_000
        weight = x[:, 0].square()
        return (losses * weight).sum() / weight.sum()

    def loss_weight(self, batch: Any) -> Any:
        return None if self.kind == "sum" else batch[0][:, 0].square().sum()

    def on_train_batch_end(self, *_: Any) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_loss_that_is_a_sum_has_the_noise_of_the_mean():
    class Mean(Weighted):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1]) / 1_000

        loss_weight = None  # pyright: ignore

    found = []
    for model in (Weighted("sum"), Mean("mean")):
        callback = NoiseScale(1, over=10)
        if model.kind == "mean":
            del Mean.loss_weight
            model.loss_weight = lambda batch: len(batch[0])  # what it is without
        fit(model=model, callbacks=[callback], accumulate_grad_batches=4)
        found.append(sums_of(callback))
    assert found[0] == pytest.approx(found[1], rel=1e-10)


def test_a_loss_with_weights_of_its_own():
    """Pieces count by their weights in it, and the scale is still in samples."""
    callback = NoiseScale(1, over=10)
    model = Weighted("weights")
    fit(model=model, data=Data(batch_size=32, drop_last=True), callbacks=[callback], max_steps=1, max_epochs=-1,
        accumulate_grad_batches=4)  # fmt: skip
    order = torch.from_numpy(jobs.epoch_order(jobs.SEED, 0, jobs.N))[:32]
    x, y = jobs.X[order], jobs.Y[order]

    def gradient(rows: Any) -> Tensor:
        loss = model.training_step((x[rows], y[rows]), 0)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.net.parameters()))])

    pieces = [slice(i, i + 8) for i in range(0, 32, 8)]
    share = torch.stack([x[piece, 0].square().sum() for piece in pieces])
    share = share / share.sum()
    whole = gradient(slice(None)).square().sum()
    trace = 32 / 3 * (sum(a * gradient(p).square().sum() for a, p in zip(share, pieces, strict=True)) - whole)
    expected = torch.stack([whole - trace / 32, trace, torch.ones_like(trace)]) * (1 - KEEP)
    assert sums_of(callback) == pytest.approx(expected.tolist(), rel=1e-10)


def test_what_is_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callback = NoiseScale(every=2, over=10)
    fit(callbacks=[callback], logger=logger, log_every_n_steps=3, accumulate_grad_batches=2)
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    logged = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    logged = [row for row in logged if row["noise/trace"]]
    assert [int(row["step"]) for row in logged] == [2, 5, 8, 11, 14, 17]
    squared, trace, weight = sums_of(callback)  # after step 19, of which 18 was the last that was measured
    assert {"noise/scale", "noise/gradient_squared", "noise/trace"} <= set(names)
    assert trace / squared > 0
    assert weight == pytest.approx(1 - KEEP**10)


def test_by_its_name_beside_the_default_callbacks(commands: Commands) -> None:
    options = ("trainer=cpu", "trainer.max_epochs=2", "logger=csv", "callbacks.noise_scale.every=2", "test=false")
    done = commands("train", "+experiment=linear", "callbacks=noise_scale", *options)
    assert done.code == 0, done.err
    assert (done.run / "checkpoints/best.ckpt").exists()
    table = next(done.run.rglob("metrics.csv")).read_text()
    assert {"noise/scale", "noise/gradient_squared", "noise/trace", "lr"} <= set(table.splitlines()[0].split(","))


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(self.net[0], nn.BatchNorm1d(16).double(), self.net[3])  # pyright: ignore


def one_line(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if record.name == "metronome.noise_scale"]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_network_that_would_see_the_cut_is_left_whole(caplog: pytest.LogCaptureFixture) -> None:
    callback = NoiseScale(1)
    module, run = fit(model=Normed(), callbacks=[callback])
    assert one_line(caplog).startswith("the noise scale is not measured: net.1 looks across samples")
    assert torch.equal(weights(module), weights(fit(model=Normed())[0]))
    assert sums_of(callback) == [0.0] * 3
    assert run.counters.iterations == run.global_step
    cut = NoiseScale(1)
    fit(model=Normed(), callbacks=[cut], accumulate_grad_batches=2)
    assert sums_of(cut)[2] > 0


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # pyright: ignore
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(nn.functional.mse_loss(self.net(batch[0]), batch[1]))
        optimizer.step()

    def on_train_batch_end(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("model", "size", "reason"),
    [
        (Manual, 32, "Manual optimizes manually, and no batch is cut"),
        (Net, 1, "a batch of one sample on one device has no parts to compare"),
    ],
)
def test_what_is_not_measured_is_said_once(
    model: Any, size: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    callback = NoiseScale(1)
    fit(model=model(), data=Data(batch_size=size), callbacks=[callback], max_epochs=1)
    assert one_line(caplog) == f"the noise scale is not measured: {reason}"


class Overflows(Net):
    """One step has no finite gradient, and is left out."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("inf") if self.trainer.global_step == 6 else loss


def test_a_gradient_that_is_not_finite_says_nothing():
    callback = NoiseScale(every=3, over=10)
    _, run = fit(model=Overflows(), callbacks=[callback], on_nonfinite="skip", max_epochs=2, accumulate_grad_batches=2)
    assert [found["step"] for found in run.nonfinite] == [7, *[7] * (len(run.nonfinite) - 1)]
    assert all(torch.isfinite(torch.tensor(sums_of(callback))))


def test_lbfgs_is_measured_once_a_step():
    callback = NoiseScale(1, over=10)
    flags: dict[str, Any] = {"accumulate_grad_batches": 2, "max_epochs": 1}
    module, run = fit(model=Net(optimizer="lbfgs"), callbacks=[callback], **flags)
    assert sums_of(callback)[2] == pytest.approx(1 - KEEP**run.global_step)
    assert torch.equal(weights(module), weights(fit(model=Net(optimizer="lbfgs"), **flags)[0]))


@pytest.mark.parametrize("options", [{"every": 0}, {"over": 0}, {"every": 1.5}])
def test_numbers_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^callbacks\.noise_scale\.(every|over)="):
        NoiseScale(**options)
