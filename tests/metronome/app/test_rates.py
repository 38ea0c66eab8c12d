"""The rate that follows the batch size: a run with it, and one with the same rate typed in, end with the same bits."""

from pathlib import Path
from typing import Any

import pytest
from commands import Commands

import metronome
from metronome.app.config.rates import scaled, unscaled
from metronome.models import Regressor

JOB = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=40", "logger=none")


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (("optimizer.scale_lr=linear", "optimizer.base_batch_size=10"), ("optimizer.lr=0.04",)),
        (("optimizer.scale_lr=sqrt", "optimizer.base_batch_size=10"), ("optimizer.lr=0.02",)),
        pytest.param(("optimizer.base_batch_size=10",), (), marks=pytest.mark.slow),
        # 0.01 x (1 + 40 / 10) / (1 + 40 / 40)
        pytest.param(
            ("optimizer.scale_lr=noise", "optimizer.base_batch_size=10", "optimizer.noise_scale=40"),
            ("optimizer.lr=0.025",),
            marks=pytest.mark.slow,
        ),
        # 1,000 / 250 = 4
        (
            ("data.batch_size=full", "optimizer.scale_lr=linear", "optimizer.base_batch_size=250"),
            ("data.batch_size=1000", "optimizer.lr=0.04"),
        ),
        # the first batch of a growing one
        (
            ("data.batch_growth={factor: 5}", "optimizer.scale_lr=linear", "optimizer.base_batch_size=20"),
            ("data.batch_growth={factor: 5}", "optimizer.lr=0.02"),
        ),
        pytest.param(
            ("optimizer.scale_lr=linear", "optimizer.base_batch_size=10", "scheduler=cosine"),
            ("optimizer.lr=0.04", "scheduler=cosine"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_scaled_and_typed_in(overrides: tuple[str, ...], same: tuple[str, ...], commands: Commands) -> None:
    ours, typed = (commands("train", *JOB, *each) for each in (overrides, same))
    assert (ours.code, typed.code) == (0, 0), ours.err + typed.err
    first, second = (result["weights_sha256"] for result in typed.results)
    assert first == second


def test_the_arithmetic_is_told(commands: Commands) -> None:
    done = commands("train", *JOB, "optimizer.scale_lr=sqrt", "optimizer.base_batch_size=10", "optimizer.lr=0.03")
    assert "rate       0.03 x sqrt(40 / 10) = 0.06\n" in done.out
    assert done.result["rates"] == ["0.03 x sqrt(40 / 10) = 0.06"]


def test_the_arithmetic_of_the_noise_scale_is_told() -> None:
    rule = {"scale_lr": "noise", "base_batch_size": 64, "noise_scale": 64}
    made, notes = scaled({"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, **rule}}, lambda: 256)
    assert made == {"optimizer": {"_target_": "torch.optim.SGD", "lr": pytest.approx(0.16)}}
    assert notes == ["0.1 x (1 + 64 / 64) / (1 + 64 / 256) = 0.16"]


def test_a_checkpoint_with_a_scaled_rate(commands: Commands) -> None:
    """Its configuration says what was typed; it is loaded, tested, and gone on from only with the same rate."""
    scale = ("optimizer.scale_lr=linear", "optimizer.base_batch_size=10")
    done = commands("train", *JOB, *scale)
    best = str(done.run / "checkpoints/best.ckpt")
    loaded = metronome.load(best)
    assert isinstance(loaded, Regressor)
    made: Any = loaded.make_optimizer(loaded.parameters())  # scale_lr is none of SGD's arguments
    assert made.param_groups[0]["lr"] == 0.01
    tested = commands("evaluate", best)
    assert tested.code == 0, tested.err
    longer = ("trainer.max_epochs=2", f"ckpt_path={best}")
    assert commands("train", *JOB, *scale, *longer).code == 0
    refused = commands("train", *JOB, *scale, *longer, "data.batch_size=80")
    assert refused.code == 2
    assert refused.err.startswith(
        "error: data.batch_size=80, and the checkpoint has 40: with optimizer.scale_lr=linear"
    )
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("optimizer.scale_lr=square",),
            "optimizer.scale_lr=square is not known; use one of none, linear, sqrt, noise",
        ),
        (("optimizer.scale_lr=linear",), "optimizer.scale_lr=linear scales from a batch size for which"),
        (("optimizer.base_batch_size=-1",), "optimizer.base_batch_size=-1 is not a number of samples from 1 up"),
    ],
)
def test_one_line(overrides: tuple[str, ...], message: str, commands: Commands, tmp_path: Path) -> None:
    done = commands("train", *JOB, *overrides)
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1


def test_every_optimizer_of_a_model() -> None:
    """A GAN has two; a list of them will do as well."""
    model = {
        "_target_": "x.Gan",
        "g": {"lr": 0.1, "scale_lr": "linear", "base_batch_size": 32, "betas": [0.5, 0.9]},
        "others": [{"lr": 0.2, "scale_lr": "none", "base_batch_size": None}, {"lr": 0.3}],
    }
    expected = {"_target_": "x.Gan", "g": {"lr": 0.2, "betas": [0.5, 0.9]}, "others": [{"lr": 0.2}, {"lr": 0.3}]}
    assert scaled(model, lambda: 64) == (expected, ["0.1 x 64 / 32 = 0.2"])
    assert unscaled(model) == expected | {"g": {"lr": 0.1, "betas": [0.5, 0.9]}}


def test_the_batch_size_is_asked_for_only_where_it_matters() -> None:
    scaled({"optimizer": {"lr": 0.1, "scale_lr": "none", "base_batch_size": 4}}, lambda: 1 // 0)
