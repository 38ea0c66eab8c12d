"""Optimizers for the full batch: a plain PyTorch loop's weights however it is cut up, and a word in mini-batches."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from jobs import X, Y
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metronome.models import Regressor
from metronome.models.optimizers import lbfgs
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError

LBFGS = partial(torch.optim.LBFGS, lr=1, max_iter=20, history_size=10, line_search_fn="strong_wolfe")
RPROP = partial(torch.optim.Rprop, lr=0.01, etas=(0.5, 1.2), step_sizes=(1e-6, 50))


def plain_loop(make: Any, steps: int) -> tuple[Tensor, list[int]]:
    """Without Lightning: the weights, and how often each step evaluated the whole data set."""
    net, counts = jobs.network(), []
    optimizer = make(net.parameters())

    def closure() -> Tensor:
        counts[-1] += 1
        order = torch.from_numpy(epoch_order(jobs.SEED, len(counts) - 1, jobs.N))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[order]), Y[order])
        loss.backward()
        return loss

    for _ in range(steps):
        counts.append(0)
        optimizer.step(closure)
    return jobs.weights(net), counts


def regressor(make: Any) -> Regressor:
    return Regressor(network=jobs.network(), optimizer=make)


def test_ours_is_that_of_torch() -> None:
    assert torch.equal(plain_loop(lbfgs, 2)[0], plain_loop(LBFGS, 2)[0])
    options: dict[str, Any] = {"line_search_fn": None, "lr": 0.1, "max_iter": 4, "history_size": 3}
    assert torch.equal(
        plain_loop(partial(lbfgs, **options), 2)[0], plain_loop(partial(torch.optim.LBFGS, **options), 2)[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "optimizer.max_iter=0 is not a number of iterations from 1 up"),
        ({"history_size": 0}, "optimizer.history_size=0 is not a number of gradients from 1 up"),
        ({"line_search_fn": "wolfe"}, "optimizer.line_search_fn=wolfe is not known; use strong_wolfe or null"),
    ],
)
def test_what_lbfgs_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        lbfgs(nn.Linear(1, 1).parameters(), **options)
    assert str(error.value) == message


def train(make: Any, batch_size: int | str = "full", **flags: Any) -> tuple[Any, Any]:
    return jobs.fit(model=regressor(make), data=jobs.Data(batch_size=batch_size), **flags)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("make", "steps", "rounding"), [(LBFGS, 3, 1e-7), (RPROP, 30, 1e-12)], ids=["lbfgs", "rprop"])
def test_the_plain_loop(make: Any, steps: int, rounding: float, accumulation: int) -> None:
    """Uncut to the last bit. Cut in four, gradients differ by 1e-17; L-BFGS makes some fifty times as much of it with
    each step of twenty evaluations (2e-13 after the first, 7e-10 after the third)."""
    expected, counts = plain_loop(make, steps)
    model, run = train(make, max_epochs=steps, accumulate_grad_batches=accumulation)
    tolerance = rounding if accumulation > 1 else 0
    torch.testing.assert_close(jobs.weights(model), expected, rtol=tolerance, atol=tolerance)
    assert run.global_step == steps
    assert run.counters.iterations == accumulation * sum(counts)
    assert (sum(counts) > 5 * steps) == (make is LBFGS)  # a line search evaluates the batch again and again
    start = nn.functional.mse_loss(jobs.network()(X), Y)
    assert nn.functional.mse_loss(model(X), Y) < start / 2


@pytest.mark.parametrize("make", [LBFGS, RPROP], ids=["lbfgs", "rprop"])
def test_from_every_checkpoint(make: Any, tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    model, _ = train(make, accumulate_grad_batches=2, callbacks=[save], enable_checkpointing=True)
    for path in sorted(tmp_path.glob("*.ckpt")):
        again, _ = train(make, accumulate_grad_batches=2, checkpoint=str(path))
        assert torch.equal(jobs.weights(again), jobs.weights(model)), path.name


# ---- mini-batches -----------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if "data.batch_size=full" in record.getMessage()]
    assert all(record.levelno == logging.WARNING and "\n" not in record.getMessage() for record in found)
    return [record.getMessage() for record in found]


SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            RPROP,
            {"batch_size": 32},
            "Rprop takes only the sign of each gradient: in mini-batches nine gradients of +0.01",
        ),
        (RPROP, {"batch_size": 156}, "Rprop takes only the sign"),
        (RPROP, {"batch_size": 100, "batch_growth": {"factor": 2}}, "Rprop takes only the sign"),  # the first epoch's
        (RPROP, {"batch_size": 157, "batch_growth": {"factor": 0.5}}, "Rprop takes only the sign"),  # the second's
        (RPROP, {"batch_size": 100, "drop_last": True}, "Rprop takes only the sign"),  # one step an epoch, not of all
        (LBFGS, {"batch_size": 32}, "LBFGS takes the curvature from differences of gradients"),
        (RPROP, {"batch_size": "full"}, None),
        (RPROP, {"batch_size": 157}, None),
        (LBFGS, {"batch_size": "full"}, None),
        (SGD, {"batch_size": 32}, None),
    ],
)
def test_a_word_in_mini_batches(
    make: Any, options: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in a run, which goes on."""
    data = jobs.Data(**options)
    with caplog.at_level(logging.WARNING):  # INFO is off in a sweep
        _, run = jobs.fit(model=regressor(make), data=data, max_epochs=2)
    found = said(caplog)
    assert len(found) == (words is not None)
    assert all(line.startswith(str(words)) for line in found)
    assert all(line.endswith("use data.batch_size=full or optimizer=momentum") for line in found)
    assert run.global_step == run.plan.total_steps


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"batch_size": 157, "batch_growth": {"factor": 0.5}}, 1),  # the second epoch's, in time or not
        ({"batch_size": 157, "batch_growth": {"factor": 0.5, "every": 1000}}, 1),
        ({"batch_size": "full"}, 0),
        ({"batch_size": 157, "batch_growth": {"factor": 2}}, 0),
    ],
)
def test_a_word_where_time_ends_the_run(options: dict[str, Any], lines: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        jobs.fit(model=regressor(RPROP), data=jobs.Data(**options), max_epochs=None, budget="0.05 s")
    assert len(said(caplog)) == lines


class Written(jobs.Net):
    """A module written elsewhere; here its optimizer is Rprop."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Rprop(self.parameters())


class Stream(IterableDataset):
    """Data of unknown length."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter([(X[:8], Y[:8])] * self.batches)


@pytest.mark.parametrize(
    ("loader", "flags", "lines"),
    [
        (DataLoader(TensorDataset(X, Y), batch_size=32), {}, 1),
        (DataLoader(TensorDataset(X, Y), batch_size=157), {}, 0),
        (DataLoader(Stream(3), batch_size=None), {}, 1),
        (DataLoader(Stream(3), batch_size=None), {"limit_train_batches": 1}, 0),
    ],
)
def test_a_module_and_loader_written_elsewhere(
    loader: Any, flags: dict[str, Any], lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        jobs.trainer(max_epochs=2, **flags).fit(Written(), loader)
    assert len(said(caplog)) == lines


def test_the_first_process_says_it(capfd: pytest.CaptureFixture) -> None:
    handler = logging.StreamHandler()
    logger = logging.getLogger("metronome")
    logger.addHandler(handler)
    try:
        jobs.fit(model=Written(), max_epochs=1, devices=2, strategy="ddp_fork")
    finally:
        logger.removeHandler(handler)
    assert capfd.readouterr().err.count("Rprop takes only the sign") == 1
