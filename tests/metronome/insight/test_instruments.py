"""What the instruments log, against a plain loop; that nothing waits for a device between log points, or is doubled."""

from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from waits import Waits, far  # noqa: F401

from metronome.insight import (
    GradientNorm,
    HParams,
    LearningRate,
    Momentum,
    SamplesAxis,
    StepTime,
    TensorBoard,
    UpdateRatio,
)
from metronome.training.batches.seeds import epoch_order


def fit(folder: Path, callbacks: list[Any], **flags: Any) -> dict[str, dict[int, float]]:
    """Train and read back what TensorBoard shows: for each tag a value per step."""
    flags = {"log_every_n_steps": 2, **flags}
    jobs.fit(logger=TensorBoard(folder, "", ""), callbacks=callbacks, **flags)
    return scalars(folder)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        # Lightning says the epoch with each metric.
        if tag != "watch/epoch":
            assert len({point.step for point in points}) == len(points), f"{tag} has doubled points"
        found[tag] = {point.step: point.value for point in points}
    return found


def plain_loop(norm: float | None = None) -> list[dict[str, float]]:
    """The training of `jobs` without Lightning: of each step the gradient's norm, and how far it moved the weights."""
    net, found = jobs.network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(4):
        for batch in torch.from_numpy(epoch_order(jobs.SEED, epoch, jobs.N)).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(jobs.X[batch]), jobs.Y[batch]).backward()
            gradient = torch.cat([p.grad.flatten() for p in net.parameters()])  # pyright: ignore
            if norm is not None:
                nn.utils.clip_grad_norm_(net.parameters(), norm)
            before = jobs.weights(net)
            optimizer.step()
            schedule.step()
            moved = (jobs.weights(net) - before).norm() / before.norm()
            found.append({"gradient_norm": float(gradient.norm()), "update_ratio": float(moved)})
    return found


@pytest.mark.parametrize(
    ("flags", "clip"),
    [
        ({}, None),
        ({"accumulate_grad_batches": 3}, None),
        ({"on_nonfinite": "ignore"}, None),
        ({"on_nonfinite": "skip"}, None),
        ({"gradient_clip_val": 0.1}, 0.1),
    ],
)
def test_gradient_norm_and_update_ratio(tmp_path: Path, flags: dict[str, Any], clip: float | None) -> None:
    logged = fit(tmp_path, [GradientNorm(), UpdateRatio()], **flags)
    loop = plain_loop(clip)
    for name in ("gradient_norm", "update_ratio"):
        expected = {step: loop[step][name] for step in range(1, 20, 2)}
        assert logged[f"watch/{name}"] == pytest.approx(expected, rel=1e-6), name
    assert list(logged["watch/gradient_norm"]) == list(logged["loss_step"])


class Groups(jobs.Net):
    """The two layers as groups of one optimizer, of other rates and momenta."""

    def configure_optimizers(self) -> Any:
        first, second = self.net[0], self.net[3]  # pyright: ignore
        groups = [
            {"params": first.parameters(), "lr": 0.1, "momentum": 0.5},
            {"params": second.parameters(), "lr": 0.01, "momentum": 0.9},
        ]
        return torch.optim.SGD(groups, lr=1.0)


def test_parameter_groups(tmp_path: Path) -> None:
    logged = fit(tmp_path, [UpdateRatio(), Momentum(), LearningRate()], model=Groups(), max_steps=2)
    assert logged["watch/momentum/0"] == pytest.approx({1: 0.5})
    assert logged["watch/momentum/1"] == pytest.approx({1: 0.9})
    assert logged["watch/lr/1"] == pytest.approx({1: 0.01})

    net, moved = jobs.network(), {}
    layers = [net[0], net[3]]  # pyright: ignore
    velocity = [[torch.zeros_like(p) for p in layer.parameters()] for layer in layers]
    order = torch.from_numpy(epoch_order(jobs.SEED, 0, jobs.N)).split(32)
    for batch in order[:2]:
        net.zero_grad()
        nn.functional.mse_loss(net(jobs.X[batch]), jobs.Y[batch]).backward()
        for i, (layer, rate, momentum) in enumerate(zip(layers, (0.1, 0.01), (0.5, 0.9), strict=True)):
            before = jobs.weights(layer)
            with torch.no_grad():
                for p, v in zip(layer.parameters(), velocity[i], strict=True):
                    v.mul_(momentum).add_(p.grad)
                    p.sub_(rate * v)
            moved[f"watch/update_ratio/{i}"] = float((jobs.weights(layer) - before).norm() / before.norm())
    assert {tag: logged[tag][1] for tag in moved} == pytest.approx(moved, rel=1e-6)


class LBFGS(jobs.Net):
    def __init__(self) -> None:
        super().__init__(optimizer="lbfgs")


def test_an_optimizer_that_evaluates_several_times_moves_from_where_the_step_began(tmp_path: Path) -> None:
    logged = fit(tmp_path, [UpdateRatio(), GradientNorm()], model=LBFGS(), max_steps=1, log_every_n_steps=1)
    net, order = jobs.network(), torch.from_numpy(epoch_order(jobs.SEED, 0, jobs.N))[:32]
    optimizer, norms = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=4), []

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(jobs.X[order]), jobs.Y[order])
        loss.backward()
        norms.append(torch.cat([p.grad.flatten() for p in net.parameters()]).norm())  # pyright: ignore
        return loss

    before = jobs.weights(net)
    optimizer.step(evaluate)
    ratio = float((jobs.weights(net) - before).norm() / before.norm())
    assert len(norms) > 1
    assert logged["watch/update_ratio"][0] == pytest.approx(ratio, rel=1e-6)
    assert logged["watch/gradient_norm"][0] == pytest.approx(float(norms[0]), rel=1e-6)


def test_no_momentum_no_curve(tmp_path: Path) -> None:
    class Plain(jobs.Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logged = fit(tmp_path, [Momentum()], model=Plain(), max_steps=4)
    assert not any(tag.startswith("watch/momentum") for tag in logged)


def test_samples_as_an_axis(tmp_path: Path) -> None:
    logged = fit(tmp_path, [SamplesAxis(["loss_step"])])
    # 157 samples an epoch in batches of 32, the fifth of 29.
    seen = {step: 157 * (step // 5) + min(32 * (step % 5 + 1), 157) for step in range(20)}
    assert logged["by_samples/loss_step"] == {seen[step]: loss for step, loss in logged["loss_step"].items()}
    assert list(logged["by_samples/loss/val"]) == [157, 314, 471, 628]
    assert list(logged["by_samples/loss/val"].values()) == list(logged["val/loss"].values())


def test_a_logger_that_can_choose_an_axis_gets_the_samples(tmp_path: Path) -> None:
    jobs.fit(
        logger=CSVLogger(tmp_path, "", ""), callbacks=[SamplesAxis(["loss_step"])], max_steps=4, log_every_n_steps=2
    )
    rows = (tmp_path / "metrics.csv").read_text()
    assert "samples" in rows.splitlines()[0]
    assert "64.0" in rows
    assert "128.0" in rows


def test_the_parts_of_a_step_are_those_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each part moves on by its own amount."""
    now = [0.0]
    monkeypatch.setattr("metronome.insight.marks.perf_counter", lambda: now[0])

    class Slow(jobs.Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            now[0] += 0.020
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            optimizer.register_step_post_hook(lambda *_: now.__setitem__(0, now[0] + 0.003))
            return optimizer

    class Rows(jobs.Data):
        def transfer_batch_to_device(self, batch: Any, *_: Any) -> Any:
            now[0] += 0.007
            return batch

    class Between(jobs.L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            now[0] += 0.001

    callbacks = [StepTime(), Between()]
    logged = fit(tmp_path, callbacks, model=Slow(), data=Rows(batch_size=53), accumulate_grad_batches=2)
    expected = {"data": 7.0, "forward_backward": 40.0, "optimizer": 3.0}
    for name, value in expected.items():
        assert logged[f"watch/ms_{name}"] == pytest.approx(dict.fromkeys(range(1, 12, 2), value)), name
    # Not of the first step, nor of the seventh, before which there was a validation; each is told a step later.
    assert logged["watch/ms_rest"] == pytest.approx(dict.fromkeys((3, 5, 9, 11), 1.0))


def every_instrument() -> list[Any]:
    return [GradientNorm(), UpdateRatio(), Momentum(), StepTime(), SamplesAxis(["loss_step"]), HParams()]


@pytest.mark.usefixtures("far")
def test_nothing_waits_for_the_device_between_log_points(tmp_path: Path) -> None:
    waits = Waits()

    class Counts(jobs.L.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            waits.step = trainer.global_step

    class Net(jobs.Net):
        def on_train_batch_end(self, *_: Any) -> None: ...

        def on_train_epoch_end(self) -> None: ...

    with waits.noted():
        fit(tmp_path, [Counts(), *every_instrument()], model=Net(), log_every_n_steps=5, max_steps=20,
            limit_val_batches=0, max_epochs=4)  # fmt: skip
    ours = {wait.step for wait in waits if "insight" in wait.where}
    # `global_step` is told before a step is made: at log points, and while the fit begins and ends.
    assert {step for step in ours if 0 < step < 20} <= {4, 9, 14, 19}
    assert {4, 9, 14} <= ours


def test_at_most_a_hundred_points_of_a_run(tmp_path: Path) -> None:
    logged = fit(tmp_path, [Momentum()], max_epochs=50, log_every_n_steps=1, limit_val_batches=0)
    assert list(logged["watch/momentum"]) == list(range(2, 250, 3))  # 250 steps: each third


def test_all_scalars_of_a_step_are_one_event(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path, "", "", prefix="mine")
    logger.log_metrics({"a": 1.5, "b": torch.tensor(2), "epoch": 3}, step=7)
    logger.finalize("success")
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert {tag: accumulator.Scalars(tag)[0].value for tag in accumulator.Tags()["scalars"]} == {
        "mine-a": 1.5, "mine-b": 2.0, "mine-epoch": 3.0,
    }  # fmt: skip
    plain = TensorBoard(tmp_path / "plain", "", "")
    plain.log_metrics({"epoch": 3, "many": {"x": 1.0}}, step=0)
    plain.log_metrics({"epoch": 3}, step=1)
    plain.finalize("success")
    assert "watch/epoch" in scalars(tmp_path / "plain")
