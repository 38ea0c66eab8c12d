"""What the table of foreign code (tests/foreign) has found to differ from stock Lightning, and what was mended."""

import logging
import multiprocessing
from collections.abc import Iterator
from typing import Any

import lightning as L
import pytest
import torch
from jobs import FEATURES, Net, X, Y, network, trainer, weights
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from metronome.training import Trainer
from metronome.units import InputError

ROWS = TensorDataset(X[:23], Y[:23])
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


def loader(samples: int = 23, batch_size: int = 6, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(X[:samples], Y[:samples]), batch_size, **options)


# ---- several loaders ----------------------------------------------------------------------------------------


class Both(Net):
    """The mean of the losses of the parts `a` and `b`."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = [nn.functional.mse_loss(self.net(x), y) for x, y in batch.values()]
        self.log("loss", torch.stack(losses).mean(), on_step=True, on_epoch=True)
        return torch.stack(losses).mean()


def both(a: DataLoader, b: DataLoader, **flags: Any) -> Tensor:
    model = Both()
    trainer(max_epochs=1, **flags).fit(model, CombinedLoader({"a": a, "b": b}, "min_size"))
    return weights(model)


@pytest.mark.parametrize(("samples", "size", "found"), [(20, 6, "5 and 2"), (23, 4, "6 and 4"), (23, 2, "6 and 2")])
def test_parts_of_unequal_size_are_not_cut(samples: int, size: int, found: str) -> None:
    """Of parts of two tensors a batch looks like two samples, and would be cut in these."""
    both(loader(), loader(samples, size))
    with pytest.raises(InputError, match=rf"parts of a batch have {found} samples.*accumulate_grad_batches=1"):
        both(loader(), loader(samples, size), accumulate_grad_batches=3)


@pytest.mark.parametrize("batch_size", [6, 2])
def test_parts_of_equal_size_are_cut(batch_size: int) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for x, y in zip(X[:23].split(batch_size), Y[:23].split(batch_size), strict=True):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
        schedule.step()
    for accumulation in (1, 2):
        found = both(loader(batch_size=batch_size), loader(batch_size=batch_size), accumulate_grad_batches=accumulation)
        torch.testing.assert_close(found, weights(net), rtol=1e-12, atol=1e-15)


def test_a_hook_may_join_the_parts() -> None:
    class Joins(Both):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [torch.cat([part[i] for part in batch.values()]) for i in (0, 1)]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return Net.training_step(self, batch, batch_idx)

    found = []
    for accumulation in (1, 3):
        model, run = Joins(), trainer(max_epochs=1, accumulate_grad_batches=accumulation)
        run.fit(model, CombinedLoader({"a": loader(), "b": loader(23, 4)}, "min_size"))
        assert run.counters.samples == 10 + 10 + 10 + 9
        found.append(weights(model))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)


# ---- the number of samples ----------------------------------------------------------------------------------


class OfPairs(Net):
    """Takes a list of one pair a sample."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step([torch.stack(part) for part in zip(*batch, strict=True)], batch_idx)


def test_a_list_of_samples_is_counted_uncut_as_cut() -> None:
    """Of 6 pairs, whose first tensors are 10 long: 6 samples, not 10; and means over the epoch weigh by it."""
    means, pairs = [], DataLoader(ROWS, batch_size=6, collate_fn=list)
    for accumulation in (1, 2):
        model, run = OfPairs(), trainer(max_epochs=1, accumulate_grad_batches=accumulation)
        run.fit(model, pairs)
        assert run.counters.samples == 23
        expected = sum(loss * size for loss, size in zip(model.step_losses, (6, 6, 6, 5), strict=True)) / 23
        assert model.epoch_means == pytest.approx([expected], rel=1e-12)
        means += model.epoch_means
    assert means[0] == pytest.approx(means[1], rel=1e-12)
    assert len(X[0]) == FEATURES == 10


def test_a_sampler_without_a_length() -> None:
    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(23))

    for accumulation in (1, 2):
        run = trainer(max_steps=3, accumulate_grad_batches=accumulation)
        run.fit(Net(), DataLoader(ROWS, batch_size=6, sampler=Endless()))
        assert run.counters.samples == 18


# ---- what is left after a fit -------------------------------------------------------------------------------


def test_no_worker_outlives_the_fit() -> None:
    """Held by the Trainer they would run on, and take 5 s each to end when that is collected."""
    run = trainer(max_epochs=2)
    run.fit(Net(), loader(num_workers=2))
    assert multiprocessing.active_children() == []
    assert run.global_step == 8


def test_values_are_there_after_an_exception() -> None:
    class Raises(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.trainer.global_step == 3:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Asks for no values."""

    found = []
    for kind in (L.Trainer, Trainer):
        run = kind(**QUIET, max_epochs=1)
        with pytest.raises(ZeroDivisionError):
            run.fit(Raises(), loader())
        found.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert found[0] == found[1]
    assert set(found[1]) == {"loss", "loss_step"}


# ---- a validation more ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"max_steps": 6}, True), ({"max_steps": 8}, False), ({"budget": "6 steps"}, False)],
    ids=["in mid-epoch", "at its end", "a budget"],
)
def test_a_validation_that_lightning_does_not_make_is_said(
    flags: dict[str, Any], said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net()
    with caplog.at_level(logging.INFO, "metronome.training"):
        trainer(**flags).fit(model, loader(), loader(9))
    assert len(model.val_losses) == 2
    lines = [record.getMessage() for record in caplog.records if "no validation is due" in record.getMessage()]
    assert lines == ["max_steps=6 ends the training where no validation is due: it is validated there"] * said
