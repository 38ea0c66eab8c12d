"""Devices and accumulation do not change the result: everything is compared with a plain PyTorch loop in float64."""

from pathlib import Path

import pytest
import torch
from jobs import Data, Net, X, Y, fit, lbfgs, network, plain_loop, weights
from torch import Tensor, nn

from metronome.training.batches.seeds import epoch_order

TWO_PROCESSES = {"devices": 2, "strategy": "ddp_fork"}


def assert_equal(found: Tensor | list[float], expected: Tensor | list[float]) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_samples", [157, 129])  # last batches of 29 samples, and of 1
def test_accumulation_changes_nothing(accumulation: int, num_samples: int) -> None:
    expected, losses = plain_loop(num_samples=num_samples)
    model, trainer = fit(data=Data(num_samples, batch_size=32), accumulate_grad_batches=accumulation)
    assert_equal(weights(model), expected)
    assert_equal(model.step_losses, losses)
    assert_equal(model.logged, losses)
    assert trainer.global_step == len(losses)


@pytest.mark.parametrize(
    ("accumulation", "num_samples", "batch_size"),
    [
        (1, 157, 32),
        (2, 157, 32),
        (3, 157, 32),
        (4, 157, 32),
        (7, 157, 32),
        (1, 129, 32),  # the last batch is one sample: the second device has no share of it
        (3, 33, 32),
        (2, 157, 31),  # shares of 16 and 15 samples
        (1, 9, 1),  # every batch leaves the second device without a share
    ],
)
def test_two_processes_change_nothing(accumulation: int, num_samples: int, batch_size: int, tmp_path: Path) -> None:
    expected, losses = plain_loop(batch_size, num_samples=num_samples)
    record = tmp_path / "seen.pt"
    data = Data(num_samples, batch_size=batch_size)
    alone, _ = fit(data=Data(num_samples, batch_size=batch_size))
    fit(model=Net(record=record), data=data, accumulate_grad_batches=accumulation, **TWO_PROCESSES)
    seen = torch.load(record)
    assert_equal(seen["weights"], expected)
    assert_equal(seen["step_losses"], losses)
    assert_equal(seen["logged"], losses)
    assert_equal(seen["epoch_means"], alone.epoch_means)
    assert_equal(seen["val_losses"], alone.val_losses)
    assert seen["steps"] == len(losses)
    assert seen["counters"] == {
        "epochs": 4,
        "iterations": seen["plan"]["total_iterations"],
        "samples": 4 * num_samples,
    }


def test_epoch_means_weigh_every_sample_the_same() -> None:
    """Worked in a plain loop: each sample's loss, with the weights that the step before it left."""
    net, means = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(4):
        total = 0.0
        for batch in torch.from_numpy(epoch_order(7, epoch, 157)).split(32):
            optimizer.zero_grad()
            losses = (net(X[batch]) - Y[batch]).square()
            total += losses.detach().sum().item()
            losses.mean().backward()
            optimizer.step()
            schedule.step()
        means.append(total / 157)
    for accumulation in (1, 5):
        model, _ = fit(accumulate_grad_batches=accumulation)
        assert_equal(model.epoch_means, means)


def test_validation_weighs_every_sample_the_same() -> None:
    model, _ = fit(data=Data(batch_size=32, eval_batch_size=5))
    expected = nn.functional.mse_loss(model.net(X[:23]), Y[:23]).item()
    assert_equal([model.val_losses[-1]], [expected])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_clipping_sees_the_gradient_of_the_batch(accumulation: int) -> None:
    expected, _ = plain_loop(clip=0.05)
    model, _ = fit(accumulate_grad_batches=accumulation, gradient_clip_val=0.05)
    assert_equal(weights(model), expected)


def test_lbfgs_evaluates_the_whole_batch(tmp_path: Path) -> None:
    """Its closure runs several times a step, and its tolerances look at the loss."""
    net = lbfgs()
    for accumulation in (1, 4):
        model, trainer = fit(
            model=Net(optimizer="lbfgs"), data=Data(batch_size="full"), accumulate_grad_batches=accumulation
        )
        torch.testing.assert_close(weights(model), weights(net), rtol=1e-9, atol=1e-12)
        assert trainer.global_step == 4
    record = tmp_path / "seen.pt"
    fit(model=Net(optimizer="lbfgs", record=record), data=Data(batch_size="full"), **TWO_PROCESSES)
    torch.testing.assert_close(torch.load(record)["weights"], weights(net), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("along", [True, False])
def test_a_growing_batch(accumulation: int, along: bool) -> None:
    """b_t = 8 * 2^t, at most N: in each epoch the plain loop's batches are those of the schedule."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    steps = []
    for epoch, size in enumerate([8, 16, 32, 64, 128]):
        batches = torch.from_numpy(epoch_order(7, epoch, 157)).split(size)
        steps.append(len(batches))
        for batch in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
    data = Data(batch_size=8, batch_growth={"factor": 2, "accumulate": along})
    model, trainer = fit(data=data, accumulate_grad_batches=accumulation, max_epochs=5)
    assert_equal(weights(model), weights(net))
    assert steps == [20, 10, 5, 3, 2]
    assert [epoch.steps for epoch in trainer.plan.per_epoch] == steps
    assert trainer.counters.iterations == trainer.plan.total_iterations
    if not along:
        # 157 = 19 x 8 + 5, and in three pieces one sample of the five would be alone.
        assert trainer.counters.iterations == accumulation * sum(steps) - (accumulation == 3)


def test_the_same_run_twice_and_another_number_of_workers() -> None:
    first, again, workers = (
        weights(fit(model=Net(dropout=0.3), data=Data(batch_size=32, num_workers=n))[0]) for n in (0, 0, 2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, workers)


def test_seeds_differ_and_zero_is_one_of_them() -> None:
    trained = [weights(fit(seed=seed)[0]) for seed in (0, 1, 0)]
    assert torch.equal(trained[0], trained[2])
    assert not torch.equal(trained[0], trained[1])
