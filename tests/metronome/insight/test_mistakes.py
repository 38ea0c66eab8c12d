"""The counts and the worst mistakes of a classifier, and histograms, against an evaluation of one's own."""

from functools import partial
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from metronome.data import DataModule, Splits
from metronome.insight import Histograms, Mistakes
from metronome.insight.instruments import mistakes
from metronome.models import Classifier

CLASSES, KEPT = 4, 5
_generator = torch.Generator().manual_seed(0)
IMAGES = torch.randn(60, 1, 6, 6, generator=_generator)
LABELS = torch.randint(CLASSES, (60,), generator=_generator)
LABELS[7] = -100  # counts nothing


class Images(DataModule):
    def load(self) -> Splits:
        part = (IMAGES[:40], LABELS[:40])
        return Splits(train=part, val=part, test=(IMAGES, LABELS))


def module() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    return Classifier(CLASSES, ignore_index=-100, network=network, optimizer=partial(torch.optim.SGD, lr=0.01))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_against_an_evaluation_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(mistakes, "_pictures", lambda found: [seen.append(found), ("x", np.zeros((1, 1, 3)))][1:])
    model, run = jobs.fit(
        model=module(), data=Images(batch_size=16), max_epochs=2, accumulate_grad_batches=accumulate,
        logger=TensorBoardLogger(tmp_path, "", ""), callbacks=[Mistakes(kept=KEPT)],
    )  # fmt: skip
    run.test(model, datamodule=Images(batch_size=16), verbose=False)
    assert len(seen) == 2  # the last of two validations, and the test

    for found, (images, labels) in zip(seen, ((IMAGES[:40], LABELS[:40]), (IMAGES, LABELS)), strict=True):
        with torch.no_grad():
            probabilities = model.network(images).softmax(dim=1)
        taken_for, counts, wrong = probabilities.argmax(dim=1), torch.zeros(CLASSES, CLASSES, dtype=torch.long), []
        for i, (label, guess) in enumerate(zip(labels.tolist(), taken_for.tolist(), strict=True)):
            if label >= 0:
                counts[label, guess] += 1
                if label != guess:
                    wrong.append((float(probabilities[i, label]), i))
        worst = [i for _, i in sorted(wrong)[:KEPT]]
        assert torch.equal(found.counts, counts)
        assert torch.equal(found.inputs, images[worst])
        assert found.labels.tolist() == labels[worst].tolist()
        assert found.taken_for.tolist() == taken_for[worst].tolist()
        torch.testing.assert_close(found.certainty, probabilities[worst].max(dim=1).values)


class Keeps(jobs.L.Callback):
    """The weights and gradients after each step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        weight = pl_module.network[1].weight
        self.weights, self.gradients = weight.detach().clone(), weight.grad.clone()


def test_they_are_images(tmp_path: Path) -> None:
    model, run = jobs.fit(
        model=module(), data=Images(batch_size=16), max_epochs=1, logger=TensorBoardLogger(tmp_path, "", ""),
        callbacks=[Mistakes(), Histograms(every_epochs=1), keeps := Keeps()],
    )  # fmt: skip
    run.test(model, datamodule=Images(batch_size=16), verbose=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {f"watch/{stage}_{name}" for stage in ("val", "test") for name in ("confusion", "mistakes")} == set(
        events.Tags()["images"]
    )
    for kind, tensor in (("weights", keeps.weights), ("gradients", keeps.gradients)):
        (found,) = events.Histograms(f"{kind}/network.1.weight")
        assert found.step == run.global_step - 1
        values = found.histogram_value
        assert values.num == tensor.numel()
        assert values.sum == pytest.approx(float(tensor.sum()), rel=1e-4, abs=1e-6)
        assert (values.min, values.max) == pytest.approx((float(tensor.min()), float(tensor.max())))


def test_what_is_no_classifier_has_none(tmp_path: Path) -> None:
    jobs.fit(logger=TensorBoardLogger(tmp_path, "", ""), callbacks=[Mistakes(every_validation=True)], max_epochs=1)
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["images"] == []
