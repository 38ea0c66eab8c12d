"""Averages of weights: against ones worked by hand in a plain loop, cut off and resumed, and in a run of the app."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from jobs import SEED, Data, Net, X, Y, fit, network, weights
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn

from metronome.app.load import load
from metronome.training import EMA, SWA, Checkpoint
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError

BATCH, EPOCHS = 32, 4  # 157 samples: 5 steps an epoch, the last one of 29


def trained(until: int) -> tuple[list[Tensor], list[int]]:
    """The weights after each step of a plain loop, and the samples of the step."""
    net, after, sizes = network(), [], []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(EPOCHS):
        for batch in torch.from_numpy(epoch_order(SEED, epoch, len(X))).split(BATCH)[: until - len(after)]:
            optimizer.zero_grad()
            nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
            after.append(weights(net))
            sizes.append(len(batch))
    return after, sizes


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("half_life", "half_lives"),
    [("1 epoch", lambda n: n / 157), ("300 samples", lambda n: n / 300), ("7 steps", lambda n: 1 / 7),
     ("25%", lambda n: n / 157)],
)  # fmt: skip
def test_a_moving_average(half_life: str, half_lives: Callable[[int], float], accumulate: int) -> None:
    if accumulate > 1 and half_life != "1 epoch":
        pytest.skip("one will do")
    after, sizes = trained(20)
    average = after[3]
    for now, samples in zip(after[4:], sizes[4:], strict=True):
        keep = 0.5 ** half_lives(samples)
        average = keep * average + (1 - keep) * now
    ema = EMA(half_life, start="3 steps")
    model, _ = fit(data=Data(batch_size=BATCH), callbacks=[ema], accumulate_grad_batches=accumulate)
    torch.testing.assert_close(weights(model), average, rtol=1e-10, atol=1e-12)


def test_the_mean_over_the_end() -> None:
    after, _ = trained(20)
    model, _ = fit(data=Data(batch_size=BATCH), callbacks=[SWA(start="50%", every="3 steps")])
    torch.testing.assert_close(weights(model), torch.stack([after[i] for i in (9, 12, 15, 18)]).mean(dim=0))


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16).double())  # pyright: ignore

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_the_means_of_batch_norm_are_made_anew() -> None:
    model, _ = fit(model=Normed(), data=Data(batch_size=BATCH), callbacks=[SWA(start="50%", every="3 steps")])
    order = torch.from_numpy(epoch_order(SEED, 0, len(X)))
    with torch.no_grad():
        hidden = [model.net[0](X[batch]) for batch in order.split(BATCH)]
    torch.testing.assert_close(model.net[1].running_mean, torch.stack([h.mean(dim=0) for h in hidden]).mean(dim=0))
    torch.testing.assert_close(model.net[1].running_var, torch.stack([h.var(dim=0) for h in hidden]).mean(dim=0))


MAKE: dict[str, Callable[[], list[Any]]] = {
    "EMA": lambda: [EMA("30%", start="20%")],
    "SWA": lambda: [SWA("40%", "3 steps")],
    "both": lambda: [SWA("60%"), EMA("1 epoch")],
}


@pytest.mark.parametrize(
    ("name", "every"), [("both", 7), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in MAKE)]
)
def test_from_any_checkpoint_it_ends_the_same(name: str, every: int, tmp_path: Path) -> None:
    saves: list[Callback] = [
        ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=every, save_top_k=-1),
        ModelCheckpoint(tmp_path, "{step}-epoch", every_n_epochs=every, save_top_k=-1, save_on_train_epoch_end=True),
    ]
    whole, _ = fit(model=Normed(), callbacks=[*MAKE[name](), *saves], enable_checkpointing=True)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) >= 2 if every > 1 else 24
    for path in paths:
        none = ModelCheckpoint(tmp_path / "none", save_top_k=0)
        callbacks = [*MAKE[name](), none]
        again, _ = fit(model=Normed(), callbacks=callbacks, enable_checkpointing=True, checkpoint=str(path))
        assert all(torch.equal(value, whole.state_dict()[key]) for key, value in again.state_dict().items()), path.name
        assert again.val_losses == whole.val_losses[len(whole.val_losses) - len(again.val_losses) :]


def test_a_run_that_has_ended_goes_on_with_the_weights_that_it_trained(tmp_path: Path) -> None:
    def save() -> Checkpoint:
        return Checkpoint(tmp_path, save_last=True, save_top_k=0, save_last_after_validation=False)

    whole, _ = fit(callbacks=[EMA("1 epoch")])
    fit(callbacks=[EMA("1 epoch"), save()], enable_checkpointing=True, max_epochs=-1, max_steps=7)
    last = str(tmp_path / "last.ckpt")
    longer, _ = fit(callbacks=[EMA("1 epoch"), save()], enable_checkpointing=True, checkpoint=last)
    assert torch.equal(weights(longer), weights(whole))
    with pytest.raises(InputError, match="its weights are an average of those that were trained"):
        fit(checkpoint=last)


def test_before_the_first_update_the_training_is_as_ever() -> None:
    plain, _ = fit()
    late, _ = fit(callbacks=[EMA("1 epoch", start="50%")])
    assert late.val_losses[:2] == plain.val_losses[:2]
    assert late.val_losses[2:] != plain.val_losses[2:]
    assert late.step_losses == plain.step_losses, "the average is beside the training"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"ema\.half_life=0 epochs averages nothing"):
        EMA("0 epochs")
    with pytest.raises(InputError, match=r"swa\.every=10% must be epochs, steps or samples"):
        SWA(every="10%")
    with pytest.raises(InputError, match=r"ema\.half_life=2% needs a training with a known end"):
        fit(callbacks=[EMA()], max_epochs=-1, max_steps=-1)
    with pytest.raises(InputError, match="both put their average in place of the weights"):
        fit(callbacks=[EMA(), EMAWeightAveraging(decay=0.9)])


def test_in_a_run(commands: Commands) -> None:
    """Together with others; what was tested, what is loaded and what is evaluated is the average."""
    job = ("+experiment=digits", "trainer=cpu", "trainer.max_epochs=2", "model=mlp", "logger=none")
    done = commands("train", *job, "callbacks=[default,ema,swa,layer_watch,model_summary]")
    assert done.code == 0, done.err
    result, run = done.result, done.run
    tested = {name: value for name, value in result["metrics"].items() if name.startswith("test/")}
    best = run / result["best"]["checkpoint"]
    again = commands("evaluate", str(best))
    assert json.loads(again.out) == pytest.approx(tested, rel=1e-6)
    checkpoint = torch.load(best, weights_only=True)
    model: Any = load(best)
    assert all(torch.equal(value, checkpoint["state_dict"][name]) for name, value in model.state_dict().items())
    assert set(checkpoint["averages"]) == {"EMA", "SWA"}
    current = checkpoint["current_model_state"]
    assert not all(torch.equal(value, current[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", "swa", "lr_finder,layer_watch,model_summary"])
def test_two_processes(name: str, commands: Commands) -> None:
    job = ("+experiment=digits", "trainer.max_epochs=2", "logger=none", f"callbacks=[{name}]", "model=mlp")
    job = (*job, "data.batch_size=128", "callbacks.checkpoint.monitor=null", "trainer.precision=64-true")
    values = []
    for trainer in ("trainer=cpu", "trainer=ddp_cpu"):
        done = commands("train", *job, trainer)
        assert done.code == 0, done.err
        states = [torch.load(path, weights_only=True) for path in sorted(done.folder.glob("runs/**/last.ckpt"))]
        values.append(states[-1]["state_dict"])
    for key, value in values[0].items():
        torch.testing.assert_close(values[1][key], value, rtol=1e-6, atol=1e-8)
