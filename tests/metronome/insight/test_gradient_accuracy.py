"""The accuracy of a batch's gradient on the digits: against gradients of single samples, worked out by themselves."""

import csv
import warnings
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

import jobs
import lightning as L
import numpy as np
import pytest
import torch
from jobs import Net, fit, trainer, weights
from torch import Tensor, nn

from metronome.insight import GradientAccuracy, NoiseScale
from metronome.insight.gradient_accuracy.accuracy import measured, predicted
from metronome.models import Classifier
from metronome.units import InputError
from project.data import Digits
from project.models import mlp

SIZES = {8: 0.30, 32: 0.54, 128: 0.80}


def network() -> nn.Module:
    """Of +experiment=minibatch, as it is before its first step with seed 0."""
    L.seed_everything(0, verbose=False)
    return mlp(64, 10)


@cache
def of_single_samples() -> tuple[Tensor, Tensor]:
    """The gradient of each training sample's loss, and of all: shapes (samples, numbers) and (numbers,)."""
    data, net = Digits(), network()
    images, labels = data.splits.train[:]
    parameters: dict[str, Tensor] = dict(net.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        outputs = torch.func.functional_call(net, parameters, (image[None],))
        return nn.functional.cross_entropy(outputs, label[None])

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, images, labels)
    every = torch.cat([gradient.flatten(1) for gradient in found.values()], 1)
    return every, every.mean(0)


def test_the_digits_before_the_first_step() -> None:
    """Mean cosines of 200 batches each: 0.30, 0.54 and 0.80, as the noise scale of the single gradients has it."""
    every, full = of_single_samples()
    n = len(every)
    noise_scale = float((every - full).square().sum() / (n - 1) / full.square().sum())
    random = np.random.default_rng(0)
    for size, expected in SIZES.items():
        drawn = torch.zeros(200, n)
        for row in drawn:
            row[random.choice(n, size, replace=False)] = 1 / size
        batches = drawn @ every
        cosine = float(torch.cosine_similarity(batches, full[None]).mean())
        assert cosine == pytest.approx(expected, abs=0.03)
        assert 1 / sqrt(1 + noise_scale * (1 / size - 1 / n)) == pytest.approx(expected, abs=0.03)
        assert predicted(noise_scale, size, n)[0] == pytest.approx(cosine, abs=0.03)


def run(folder: Path, *callbacks: Any, **flags: Any) -> tuple[Classifier, Any]:
    model = Classifier(10, network=network(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    run = trainer(callbacks=list(callbacks), **{"budget": "4 steps", "limit_val_batches": 0, **flags})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model, datamodule=Digits(batch_size=32))
    return model, run


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_what_is_written(tmp_path: Path) -> None:
    """The noise scale within 10 % of that of the single gradients, the cosines within 0.03, the layers' sizes equal;
    the training as it is without."""
    sizes = [*SIZES, 1257]
    accuracy = GradientAccuracy(str(tmp_path), at=["0%", "100%"], batch_sizes=sizes, batches=100)
    model, _ = run(tmp_path, accuracy)
    assert torch.equal(weights(model), weights(run(tmp_path)[0]))
    assert model.training
    every, full = of_single_samples()
    noise_scale = float((every - full).square().sum() / (len(every) - 1) / full.square().sum())
    found = rows(tmp_path / "gradient.csv")
    assert [(int(row["step"]), int(row["batch_size"])) for row in found] == [(s, b) for s in (0, 4) for b in sizes]
    for row in found[:3]:
        assert float(row["cosine"]) == pytest.approx(SIZES[int(row["batch_size"])], abs=0.03)
        assert float(row["noise_scale"]) == pytest.approx(noise_scale, rel=0.1)
        assert float(row["error"]) == pytest.approx(float(row["error_predicted"]), rel=0.1)
    assert float(found[3]["cosine"]) == pytest.approx(1, abs=1e-5)
    assert float(found[3]["error"]) == pytest.approx(0, abs=1e-5)
    layers = [row for row in rows(tmp_path / "gradient_layers.csv") if row["step"] == "0"]
    assert [row["parameter"] for row in layers] == ["1.weight", "1.bias", "3.weight", "3.bias"]
    split = full.split([int(row["numbers"]) for row in layers])
    for row, part in zip(layers, split, strict=True):
        assert float(row["gradient"]) == pytest.approx(float(part.square().mean().sqrt()), rel=1e-4)


def test_a_run_that_goes_on_keeps_its_rows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"at": ["0%", "100%"], "batch_sizes": [8], "batches": 4}
    before = GradientAccuracy(str(tmp_path), **options)
    run(tmp_path, before)
    after = GradientAccuracy(str(tmp_path / "other"), **options)
    after.load_state_dict(before.state_dict())
    assert (after.rows, after.layers) == (before.rows, before.layers)
    assert len(after.rows) == 2


def test_arithmetic():
    """|G|^2 = 4; g = (2, 0) is G, g = (0, 2) at a right angle to it: cosines 1 and 0, distances 0 and sqrt(8)."""
    assert measured([4.0, 0.0], [4.0, 4.0], 4.0) == pytest.approx((0.5, 1.0))
    assert predicted(100, 50, 50) == (1.0, 0.0)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^gradients of chosen samples are asked of loss_and_outputs"):
        fit(model=Net(), callbacks=[GradientAccuracy(str(tmp_path))])
    with pytest.raises(InputError, match=r"which must have an end$"):
        fit(model=Net(), callbacks=[GradientAccuracy(str(tmp_path))], max_epochs=-1, max_time={"seconds": 1})


@pytest.mark.slow
def test_what_the_steps_tell_is_what_all_samples_tell(tmp_path: Path) -> None:
    """At weights that stay (rate 0), the callback's average over 400 steps of 32 samples, cut in two, comes within 15 %
    of the noise scale of the single gradients."""
    scale = NoiseScale(every=1, over=400)
    model = Classifier(10, network=network(), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    made = jobs.trainer(callbacks=[scale], budget="2000 steps", limit_val_batches=0)
    made.fit(model, datamodule=Digits(batch_size=32))
    squared, trace, _ = scale.state_dict()["sums"]
    every, full = of_single_samples()
    noise_scale = float((every - full).square().sum() / (len(every) - 1) / full.square().sum())
    assert trace / squared == pytest.approx(noise_scale, rel=0.15)
