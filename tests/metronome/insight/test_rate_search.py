"""The search for a learning rate: against a plain loop, on curves whose answer is known, and without a trace."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import SEED, Data, Net, X, Y, fit, network, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from metronome.data import Splits
from metronome.insight import LRFinder
from metronome.insight.rate_search.curve import Curve, lowest, suggest
from metronome.insight.rate_search.search import search_alone
from metronome.insight.rate_search.trials import Tried, best_rate
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError

QUICK: Any = {"steps": 40, "trial_steps": 12, "low": 1e-4}


class Line(Data):
    """Targets that can be learnt."""

    def load(self) -> Splits:
        splits = super().load()
        return Splits(*((x, x[:, :1] - 2 * x[:, 1:2]) for x, _ in (splits.train, splits.val, splits.test)))


class Normed(Net):
    """With all that a step may leave behind: BatchNorm, dropout, a count, a rate for each of two groups."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(dropout=0.2)
        self.net.insert(1, nn.BatchNorm1d(16).double())  # pyright: ignore
        self.lr, self.count = lr, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.count += 1
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        groups = [{"params": [*self.net[0].parameters()]}, {"params": [*self.net[4].parameters()], "lr": self.lr / 2}]  # pyright: ignore
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize("flags", [{}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}], ids=["", "cut"])
def test_nothing_of_it_stays(flags: dict[str, Any]) -> None:
    plain, run = fit(model=Normed(), data=Line(batch_size=32), max_epochs=2, **flags)
    after, run_after = fit(
        model=Normed(), data=Line(batch_size=32), max_epochs=2, callbacks=[finder := LRFinder(**QUICK)], **flags
    )
    assert finder.tried, "it was searched"
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in plain.state_dict().items())
    for name in ("step_losses", "logged", "epoch_means", "val_losses", "count"):
        assert getattr(plain, name) == getattr(after, name), name
    assert run.counters == run_after.counters
    assert run.callback_metrics == run_after.callback_metrics


def test_nothing_of_it_stays_with_a_loader_that_draws_its_own_order() -> None:
    def train(callbacks: list[Any]) -> Any:
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True, generator=generator)
        run, model = trainer(max_epochs=2, callbacks=callbacks), Net()
        run.fit(model, loader)
        return model

    assert train([LRFinder(**QUICK)]).step_losses == train([]).step_losses


def test_the_losses_of_a_range_test_are_those_of_a_plain_loop() -> None:
    curve = search_alone(trainer(max_epochs=1), model := Net(), Data(batch_size=32), low=1e-3, high=1.0, steps=12)
    net, losses = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    batches = [b for epoch in range(3) for b in torch.from_numpy(epoch_order(SEED, epoch, len(X))).split(32)]
    for batch, rate in zip(batches[:12], np.geomspace(1e-3, 1.0, 12), strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[batch]), Y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert curve.losses == pytest.approx(losses, rel=1e-12)
    assert curve.rates == pytest.approx(list(np.geomspace(1e-3, 1.0, 12)))
    assert torch.equal(weights(model), weights(Net()))


def test_a_rate_that_is_taken_is_that_of_the_configuration_also_after_a_resume(tmp_path: Path) -> None:
    def save() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)

    finder = LRFinder(take=True, **QUICK)
    taken, _ = fit(
        model=Normed(), data=Line(batch_size=32), max_epochs=2, callbacks=[finder, save()], enable_checkpointing=True
    )
    assert finder.rate is not None
    given, _ = fit(model=Normed(lr=finder.rate), data=Line(batch_size=32), max_epochs=2)
    torch.testing.assert_close(weights(taken), weights(given), rtol=1e-9, atol=1e-12)
    none = ModelCheckpoint(tmp_path / "none", save_top_k=0)
    again = [LRFinder(take=True, **QUICK), none]
    path = str(tmp_path / "step=3.ckpt")
    resumed, _ = fit(
        model=Normed(),
        data=Line(batch_size=32),
        max_epochs=2,
        callbacks=again,
        enable_checkpointing=True,
        checkpoint=path,
    )
    assert torch.equal(weights(resumed), weights(taken))


def test_it_says_and_draws_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finder = LRFinder(folder=str(tmp_path), configured=0.2, **QUICK)  # scaled to 0.1
    with caplog.at_level("INFO", "metronome.rate"):
        fit(
            model=Net(),
            data=Line(batch_size=32),
            max_epochs=1,
            callbacks=[finder],
            logger=TensorBoardLogger(tmp_path, "", ""),
        )
    first, second = caplog.messages
    assert finder.rate is not None
    assert first.startswith(f"rate       {finder.rate:g}: best of ")
    assert f"keeps 0.1; to have it: optimizer.lr={2 * finder.rate:.3g}  (" in second
    assert max(map(len, caplog.messages)) < 80
    assert (tmp_path / "lr_finder.png").stat().st_size > 1000
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == ["watch/lr_finder"]


# ---- what curves speak for ----------------------------------------------------------------------------------


def _curve(noise: float, falls: bool = True) -> Curve:
    """Falls from 2 at a rate of 0.001 to 0.5 at 0.1, and runs away from there."""
    rates, random = np.geomspace(1e-6, 1, 100), np.random.default_rng(0)
    losses = 2.0 + noise * random.standard_normal(100)
    if falls:
        fallen = np.clip(np.log10(rates / 1e-3) / 2, 0, 1)
        losses = losses - 1.5 * fallen + 8 * np.clip(np.log10(rates / 0.1), 0, None)
    return Curve(rates.tolist(), losses.tolist())


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_the_lowest_point_is_found_in_noise(noise: float) -> None:
    found, rate = lowest(_curve(noise)), suggest(_curve(noise))
    assert found is not None
    assert rate is not None
    assert 0.04 < found < 0.15
    assert rate == pytest.approx(found / 4, rel=0.05)


def test_where_the_loss_does_not_fall_no_rate_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert lowest(_curve(0.5, falls=False)) is None
    with caplog.at_level("INFO", "metronome.rate"):
        fit(max_epochs=1, callbacks=[LRFinder(**{**QUICK, "low": 1e-12, "high": 1e-10})])
    assert caplog.messages[0] == "rate       none found from 1e-12 to 1e-10: the loss fell at none"


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ((4.0, 1.0, 4.0), 0.3),
        ((2.0, 1.0, 8.0), 0.3 * 3 ** (0.5 * (math.log(2) - math.log(8)) / math.log(16))),
        ((8.0, 1.0, 2.0), 0.3),  # a long training wants rather less
        ((2.0, 1.0, math.inf), 0.3),
        ((1.0, 2.0, 3.0), 0.1),
        ((math.inf, math.inf, math.inf), None),
    ],
)
def test_the_best_of_what_was_tried(losses: tuple[float, ...], rate: float | None) -> None:
    found = best_rate([Tried(0.1 * 3**i, loss) for i, loss in enumerate(losses)])
    assert found == (None if rate is None else pytest.approx(rate, rel=0.05))


def test_what_goes_by_no_rate_is_refused() -> None:
    with pytest.raises(InputError, match="this training has LBFGS"):
        fit(model=Net(optimizer="lbfgs"), max_epochs=1, callbacks=[LRFinder()])
    with pytest.raises(InputError, match=r"low=1 and high=0\.1 are no range"):
        LRFinder(low=1, high=0.1)
