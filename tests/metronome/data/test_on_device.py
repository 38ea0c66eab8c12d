"""Data kept on the device that trains: which, and that nothing changes by it. The CPU plays the far device."""

from typing import Any

import jobs
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metronome.data import DataModule, Splits, on_device
from metronome.data.on_device import DeviceReader, num_bytes
from metronome.data.rows import BatchReader, Rows
from metronome.models import Classifier
from metronome.training import Trainer
from metronome.units import InputError

ALL_BYTES = (jobs.N + 23 + 31) * (jobs.FEATURES + 1) * 8  # float64


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The CPU is a far device with so many bytes free."""
    memory = {"free": 4 * ALL_BYTES}
    monkeypatch.setattr(on_device, "is_far", lambda device: True)
    monkeypatch.setattr(on_device, "free_bytes", lambda device: memory["free"])
    return memory


def loaders(data: DataModule, model: L.LightningModule | None = None) -> list[DataLoader]:
    data.trainer = jobs.trainer()
    data.trainer.strategy.connect(model or jobs.Net())
    data.trainer.datamodule = data  # pyright: ignore
    return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]  # pyright: ignore


def are_kept(data: DataModule, model: L.LightningModule | None = None) -> list[bool]:
    return [isinstance(loader.dataset, DeviceReader) for loader in loaders(data, model)]


def test_what_it_takes() -> None:
    assert sum(num_bytes(split) for split in jobs.Data().splits) == ALL_BYTES
    assert num_bytes(Rows({"x": torch.zeros(5, 3, dtype=torch.uint8), "y": torch.zeros(5)})) == 5 * 3 + 5 * 4
    assert num_bytes(TensorDataset(jobs.X)) == num_bytes(None) == 0


@pytest.mark.parametrize(
    ("wanted", "free", "kept"),
    [
        ("auto", 4 * ALL_BYTES, True),  # a quarter of it
        ("auto", 4 * ALL_BYTES - 1, False),
        (True, ALL_BYTES, True),
        (False, 10**12, False),
    ],
)
def test_what_is_kept(wanted: Any, free: int, kept: bool, far: dict[str, int]) -> None:
    far["free"] = free
    assert are_kept(jobs.Data(batch_size=32, on_device=wanted)) == [kept] * 3


def test_it_is_decided_once_for_all_splits(far: dict[str, int]) -> None:
    """By the first loader; then the data are there, and the memory of a training is not free any more."""
    data = jobs.Data(batch_size=32)
    first = loaders(data)
    far["free"] = 0
    again = loaders(data)
    for a, b in zip(first, again, strict=True):
        assert isinstance(a.dataset, DeviceReader)
        assert isinstance(b.dataset, DeviceReader)
        assert a.dataset.rows is b.dataset.rows


def test_too_much_is_refused_where_it_is_wanted(far: dict[str, int]) -> None:
    far["free"] = ALL_BYTES - 1
    with pytest.raises(InputError, match=r"^data.on_device=true, and the data take \S+ GB of the \S+ GB that cpu has"):
        loaders(jobs.Data(batch_size=32, on_device=True))


@pytest.mark.parametrize("wanted", ["auto", True])
def test_on_a_cpu_it_means_nothing(wanted: Any) -> None:
    assert are_kept(jobs.Data(batch_size=32, on_device=wanted)) == [False] * 3


def test_no_worker_and_no_pinned_memory(far: dict[str, int]) -> None:
    for loader in loaders(jobs.Data(batch_size=32, num_workers=2, pin_memory=True)):
        assert (loader.num_workers, loader.pin_memory) == (0, False)


class Mixed(jobs.Data):
    """Validation reads sample by sample."""

    def load(self) -> Splits:
        return super().load()._replace(val=TensorDataset(jobs.X[:23], jobs.Y[:23]))


def test_other_data_sets_stay_where_they_are(far: dict[str, int]) -> None:
    assert are_kept(Mixed(batch_size=32)) == [True, False, True]

    class Noisy(Rows):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index)

    class Own(jobs.Data):
        def load(self) -> Splits:
            return super().load()._replace(train=Noisy((jobs.X, jobs.Y)))

    assert are_kept(Own(batch_size=32)) == [False, True, True]
    with pytest.raises(InputError, match=r"keeps tensors and arrays, and the training data set of Own is a Noisy"):
        Own(batch_size=32, on_device=True).setup()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_device": "yes"}, "data.on_device='yes' is neither true, false nor auto"),
        ({"on_device": 1}, "data.on_device=1 is neither true, false nor auto"),
        ({"on_device": True, "num_workers": 2}, "data.num_workers=2 has nothing to do; leave one of them out"),
        ({"on_device": True, "pin_memory": True}, "data.pin_memory=true has nothing to do; leave one of them out"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        jobs.Data(**options)


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device"])
@pytest.mark.parametrize("owner", ["module", "data"])
def test_who_does_something_to_a_batch_on_its_way_finds_it_in_main_memory(
    hook: str, owner: str, far: dict[str, int]
) -> None:
    def own(self: Any, batch: Any, *_: Any) -> Any:
        return batch

    data, model = type("D", (jobs.Data,), {}), type("M", (jobs.Net,), {})
    setattr(model if owner == "module" else data, hook, own)
    assert are_kept(data(batch_size=32), model()) == [False] * 3
    assert are_kept(data(batch_size=32, on_device=True), model()) == [True] * 3  # unless it is wanted all the same


# ---- the same training ---------------------------------------------------------------------------------------------


class Seen(Callback):
    """What is read of each batch, and by whom."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.readers: set[type] = set()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0].clone())
        self.readers.add(type(trainer.train_dataloader.dataset))

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        self.batches.append(batch[0].clone())
        self.readers.add(type(trainer.val_dataloaders.dataset))


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("growth", [None, {"factor": 2}])
def test_the_same_batches_and_weights(accumulation: int, growth: Any, far: dict[str, int]) -> None:
    found = []
    for wanted, reader in ((False, BatchReader), (True, DeviceReader)):
        seen = Seen()
        data = jobs.Data(batch_size=16, batch_growth=growth, on_device=wanted)
        model, _ = jobs.fit(
            model=jobs.Net(dropout=0.2), data=data, callbacks=[seen], accumulate_grad_batches=accumulation
        )
        assert seen.readers == {reader}
        found.append((jobs.weights(model), seen.batches, model.val_losses))
    (weights, batches, losses), (weights_there, batches_there, losses_there) = found
    assert torch.equal(weights, weights_there)
    assert losses == losses_there
    assert len(batches) == len(batches_there)
    assert all(torch.equal(a, b) for a, b in zip(batches, batches_there, strict=True))


def test_two_processes_each_keep_all(far: dict[str, int], tmp_path: Any) -> None:
    found = []
    for wanted in (False, True):
        record = tmp_path / f"{wanted}.pt"
        jobs.fit(
            model=jobs.Net(record=record), data=jobs.Data(batch_size=32, on_device=wanted), devices=2,
            strategy="ddp_fork", max_epochs=2,
        )  # fmt: skip
        found.append(torch.load(record)["weights"])
    assert torch.equal(*found)


def test_resumed_in_mid_epoch(far: dict[str, int], tmp_path: Any) -> None:
    from metronome.training import Checkpoint

    save = Checkpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, _ = jobs.fit(
        data=jobs.Data(batch_size=32, on_device=True), callbacks=[save], enable_checkpointing=True, max_epochs=2
    )
    again, _ = jobs.fit(data=jobs.Data(batch_size=32), checkpoint=str(tmp_path / "step=7.ckpt"), max_epochs=2)
    assert torch.equal(jobs.weights(whole), jobs.weights(again))


# ---- what looks at the data ----------------------------------------------------------------------------------------


class Bytes(DataModule):
    """Images of bytes with labels of 3 classes."""

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(256, (40, 4), generator=generator, dtype=torch.uint8)
        return Splits(train=(x, torch.arange(40) % 3), val=(x[:9], torch.arange(9) % 3))


class Cast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 3), set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.dtype)
        return self.layer(x.float() / 255)


def classifier(num_classes: int = 3) -> Classifier:
    return Classifier(num_classes, network=Cast(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def test_bytes_stay_bytes(far: dict[str, int]) -> None:
    data, model = Bytes(batch_size=8), classifier()
    jobs.fit(model=model, data=data, max_epochs=1)
    assert model.network.seen == {torch.uint8}
    (reader, *_) = [loader.dataset for loader in [data.train_dataloader()]]
    assert isinstance(reader, DeviceReader)
    assert reader.rows.columns[0].dtype == torch.uint8


def test_labels_are_looked_at_before_they_are_far(far: dict[str, int]) -> None:
    """All at once, and for each module anew, also where they are there already."""
    far["free"] = 10**6
    data, model = Bytes(batch_size=8), classifier(3)
    looked_at: list[int] = []
    model.check_batch = lambda batch: looked_at.append(len(batch[1]))
    jobs.fit(model=model, data=data, max_epochs=1)
    assert looked_at[:2] == [40, 9]
    assert len(looked_at) == 2 + 5 + 2  # and each batch, of which on a GPU only the shape and type are
    with pytest.raises(InputError, match=r"^label 2 is out of range: the model has 2 classes"):
        loaders(data, classifier(2))


def test_a_plan_needs_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("asked for a device")

    monkeypatch.setattr(on_device, "is_far", fail)
    monkeypatch.setattr(on_device, "free_bytes", fail)
    data, trainer = jobs.Data(batch_size=32, on_device=True), jobs.trainer(max_epochs=2)
    data.trainer, trainer.datamodule = trainer, data  # pyright: ignore
    assert isinstance(trainer, Trainer)
    assert trainer.plan is not None
    assert trainer.plan.total_steps == 10
