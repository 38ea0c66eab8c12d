"""Loss and accuracy against those worked in a plain loop, over all samples of an epoch."""

from functools import partial
from typing import Any

import jobs
import pytest
import torch
from torch import Tensor, nn

from metronome.data import DataModule, Splits
from metronome.models import Classifier
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError
from project.models import cnn, mlp

X = jobs.X
LABELS = (X[:, :3] + 0.5 * X[:, 3:6]).argmax(1)  # three classes


class Data(DataModule):
    """50 samples to train, in batches of 16, 16, 16 and 2; 33 to validate, 37 to test."""

    def __init__(self, labels: Tensor = LABELS, batch_size: int = 16, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.labels = labels

    def load(self) -> Splits:
        return Splits(*((X[part], self.labels[part]) for part in PARTS.values()))


PARTS = {"train": slice(0, 50), "val": slice(50, 83), "test": slice(83, 120)}


def network(num_outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return mlp(10, num_outputs, hidden=(8,)).double()


def classifier(num_classes: int = 3, num_outputs: int = 3, **options: Any) -> Classifier:
    sgd = partial(torch.optim.SGD, lr=0.5)
    return Classifier(num_classes, network=network(num_outputs), optimizer=sgd, **options)


def losses(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Minus the log probability of the label; smoothed, a part of it is that of all classes alike."""
    minus_log = logits.exp().sum(1, keepdim=True).log() - logits
    return (1 - smoothing) * minus_log[range(len(labels)), labels] + smoothing * minus_log.mean(1)


def worked(epochs: int = 2, smoothing: float = 0.0) -> dict[str, float]:
    """The metrics after a training in a plain loop."""
    net, metrics = network(), {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for epoch in range(epochs):
        total, right = 0.0, 0
        for batch in torch.from_numpy(epoch_order(jobs.SEED, epoch, 50)).split(16):
            optimizer.zero_grad()
            logits = net(X[batch])
            each = losses(logits, LABELS[batch], smoothing)
            each.mean().backward()
            optimizer.step()
            total, right = total + each.sum().item(), right + int((logits.argmax(1) == LABELS[batch]).sum())
            metrics["train/loss"] = each.mean().item()
        metrics |= {"train/loss_epoch": total / 50, "train/acc": right / 50}
    for stage in ("val", "test"):
        with torch.no_grad():
            logits, labels = net(X[PARTS[stage]]), LABELS[PARTS[stage]]
        metrics[f"{stage}/loss"] = losses(logits, labels).mean().item()
        metrics[f"{stage}/acc"] = (logits.argmax(1) == labels).double().mean().item()
    return metrics


def named(metrics: dict[str, float], stage: str) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(stage)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("accumulate", "eval_batch_size"),
    [(1, None), (3, None), (3, 7), (16, 33)],  # the last batch, of 2, in two pieces; None: 16 and 6
)
def test_metrics_are_those_over_all_samples(accumulate: int, eval_batch_size: int | None, smoothing: float) -> None:
    expected = worked(smoothing=smoothing)
    model, data = classifier(label_smoothing=smoothing), Data(eval_batch_size=eval_batch_size)
    _, trainer = jobs.fit(model=model, data=data, max_epochs=2, accumulate_grad_batches=accumulate)
    after_fit = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert after_fit == pytest.approx(named(expected, "train") | named(expected, "val"), rel=1e-6)
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        (found,) = run(model, datamodule=data, verbose=False)
        assert found == pytest.approx(named(expected, stage), rel=1e-6)
    assert 0 < expected["val/acc"] < 1


@pytest.mark.parametrize("stage", ["train", "val", "test"])
@pytest.mark.parametrize("label", [3, 7, -1, -100])
def test_a_label_out_of_range(stage: str, label: int) -> None:
    labels = LABELS.clone()
    labels[PARTS[stage].start + 20] = label
    model, data = classifier(), Data(labels)
    run = jobs.trainer(max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(InputError) as error:
        run.test(model, datamodule=data, verbose=False) if stage == "test" else run.fit(model, datamodule=data)
    assert str(error.value) == (
        f"label {label} is out of range: the model has 3 classes, 0 to 2; "
        "set model.num_classes to the number of classes in the data"
    )


@pytest.mark.parametrize(("num_classes", "num_outputs"), [(3, 4), (4, 3), (3, 1)])
def test_the_wrong_number_of_outputs(num_classes: int, num_outputs: int) -> None:
    with pytest.raises(InputError) as error:
        jobs.fit(model=classifier(num_classes, num_outputs), data=Data())
    assert str(error.value) == (
        f"the network has {num_outputs} outputs and the model {num_classes} classes; "
        "set model.network.num_outputs to model.num_classes"
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_the_cnn_looks_at_one_sample_at_a_time(normalize: bool) -> None:
    """It ends with the same weights for any accumulation, which with BatchNorm it would not."""

    class Images(Data):
        def load(self) -> Splits:
            return Splits(train=(X[:20, :8].reshape(20, 1, 4, 2), LABELS[:20]))

    def trained(accumulate: int) -> Tensor:
        torch.manual_seed(1)
        net = cnn(1, 3, channels=(2,), normalize=normalize).double()
        model = Classifier(3, network=net, optimizer=partial(torch.optim.SGD, lr=0.1))
        jobs.fit(model=model, data=Images(batch_size=8), max_epochs=2, accumulate_grad_batches=accumulate)
        return jobs.weights(model)

    torch.testing.assert_close(trained(1), trained(3), rtol=1e-9, atol=1e-12)
