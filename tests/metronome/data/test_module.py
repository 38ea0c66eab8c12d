"""Which samples a data module gives, in training and evaluation, on any layout."""

from collections.abc import Callable
from typing import Any

import jobs
import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from metronome.data import DataModule, Splits
from metronome.training import Trainer
from metronome.training.batches.seeds import epoch_order
from metronome.training.lightning_private import give_loaders_back
from metronome.units import InputError


class Indices(DataModule):
    """Samples that are their own indices: 0 up in training, 100 up in validation, 200 up in test."""

    def __init__(self, train: int | None = 30, val: int | None = None, test: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.sizes = train, val, test

    def load(self) -> Splits:
        starts = zip((0, 100, 200), self.sizes, strict=True)
        return Splits(*(None if size is None else torch.arange(start, start + size) for start, size in starts))


class Recorder(L.LightningModule):
    """Keeps the batches that it is given, whole: those of training by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.train_epochs: list[list[Any]] = []
        self.val_batches: list[Any] = []
        self.test_batches: list[Any] = []

    def on_train_epoch_start(self) -> None:
        self.train_epochs.append([])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.train_epochs[-1].append(plain(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.square()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_batches.append(plain(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_batches.append(plain(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def plain(batch: Any) -> Any:
    return batch.tolist() if isinstance(batch, Tensor) else batch


def recorded(data: DataModule, **flags: Any) -> Recorder:
    model, _ = jobs.fit(model=Recorder(), data=data, **flags)
    assert isinstance(model, Recorder)
    return model


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


# ---- training ------------------------------------------------------------------------------------------------

LAYOUTS = [
    # samples, batch size, drop_last, devices, sizes of the batches
    (30, 8, False, 1, [8, 8, 8, 6]),
    (30, 8, True, 1, [8, 8, 8]),
    (30, 10, False, 1, [10, 10, 10]),
    (30, 10, True, 1, [10, 10, 10]),
    (30, 30, True, 1, [30]),
    (30, "full", False, 1, [30]),
    (7, 1, False, 1, [1] * 7),
    (30, 8, False, 2, [8, 8, 8, 6]),
    (30, 8, True, 3, [8, 8, 8]),
    (25, 8, False, 4, [8, 8, 8, 1]),  # three devices have no share of the last batch
    (31, 29, False, 3, [29, 2]),
    (30, "full", False, 4, [30]),
]


@pytest.mark.parametrize(("num_samples", "batch_size", "drop_last", "devices", "sizes"), LAYOUTS)
def test_every_sample_once_an_epoch(
    num_samples: int, batch_size: int | str, drop_last: bool, devices: int, sizes: list[int], monkeypatch: Any
) -> None:
    """The shares that the devices' loaders give, put together, against slices of the epoch's order."""
    for epoch in (0, 3):
        batches: list[list[int]] = [[] for _ in sizes]
        for rank in range(devices):
            monkeypatch.setattr(Trainer, "world_size", devices, raising=False)
            monkeypatch.setattr(Trainer, "global_rank", rank, raising=False)
            data = Indices(num_samples, batch_size=batch_size, drop_last=drop_last)
            data.trainer = jobs.trainer()
            data.trainer.fit_loop.epoch_progress.current.processed = epoch  # pyright: ignore
            loader = data.train_dataloader()
            sampler: Any = loader.batch_sampler
            assert len(loader) == len(sizes)
            for step, share in enumerate(loader):
                batches[step] += share[: sampler.share_size(step)].tolist()
                assert len(share) == max(1, sampler.share_size(step))
        order, start = epoch_order(jobs.SEED, epoch, num_samples).tolist(), 0
        assert sorted(order) == list(range(num_samples))
        for batch, size in zip(batches, sizes, strict=True):
            assert batch == order[start : start + size]
            start += size
        assert start == num_samples or drop_last


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "drop_last", "sizes"),
    [(n, b, drop_last, sizes) for n, b, drop_last, devices, sizes in LAYOUTS if devices == 1],
)
def test_every_sample_once_an_epoch_of_a_fit(num_samples: int, batch_size: Any, drop_last: bool, sizes: Any) -> None:
    model = recorded(Indices(num_samples, batch_size=batch_size, drop_last=drop_last), max_epochs=2)
    assert [[len(batch) for batch in epoch] for epoch in model.train_epochs] == [sizes, sizes]
    for epoch in model.train_epochs:
        assert len(set(flat(epoch))) == sum(sizes)
    first, second = map(flat, model.train_epochs)
    assert first != second


def test_shuffle_off() -> None:
    model = recorded(Indices(10, batch_size=4, shuffle=False), max_epochs=2)
    assert model.train_epochs == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]] * 2


@pytest.mark.parametrize(
    ("growth", "sizes"),
    [
        ({"factor": 2}, [[8, 8, 8, 6], [16, 14], [30], [30]]),
        ({"factor": 2, "every": 2, "max": 12}, [[8, 8, 8, 6], [8, 8, 8, 6], [12, 12, 6], [12, 12, 6]]),
        ({"factor": 0.5}, [[8, 8, 8, 6], [4] * 7 + [2], [2] * 15, [1] * 30]),
    ],
)
def test_a_growing_batch(growth: dict[str, Any], sizes: list[list[int]]) -> None:
    model = recorded(Indices(30, batch_size=8, batch_growth=growth))
    assert [[len(batch) for batch in epoch] for epoch in model.train_epochs] == sizes
    for epoch in model.train_epochs:
        assert sorted(flat(epoch)) == list(range(30))


def test_overfitting_sees_the_same_batches_each_epoch() -> None:
    model = recorded(Indices(30, val=5, batch_size=4), overfit_batches=2, max_epochs=3)
    assert model.train_epochs == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 3


# ---- evaluation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_samples", "eval_batch_size", "devices", "sizes"),
    [
        (10, 4, 1, [4, 4, 2]),
        (10, 10, 1, [10]),
        (10, 99, 1, [10]),
        (10, 1, 1, [1] * 10),
        (10, 4, 2, [4, 4, 2]),  # shares of 2 2, 2 2, 1 1
        (11, 4, 3, [4, 4, 3]),  # shares of 2 1 1, 2 1 1, 1 1 1
        (2, 8, 4, [2]),  # two devices have none
    ],
)
def test_evaluation_sees_every_sample_once_and_in_order(
    num_samples: int, eval_batch_size: int, devices: int, sizes: list[int], monkeypatch: Any
) -> None:
    for kind, start in (("val", 100), ("test", 200)):
        shares = []
        for rank in range(devices):
            monkeypatch.setattr(Trainer, "world_size", devices, raising=False)
            monkeypatch.setattr(Trainer, "global_rank", rank, raising=False)
            data = Indices(30, num_samples, num_samples, batch_size=8, eval_batch_size=eval_batch_size)
            data.trainer = jobs.trainer()
            loader = getattr(data, f"{kind}_dataloader")()
            counts = [loader.batch_sampler.share_size(i) for i in range(len(loader))]
            # A device without a share reads one sample that does not count.
            assert all(len(share) == max(count, 1) for share, count in zip(loader, counts, strict=True))
            shares.append([share.tolist()[:count] for share, count in zip(loader, counts, strict=True)])
        assert len(shares[0]) == len(sizes)
        batches = [flat([mine[i] for mine in shares if i < len(mine)]) for i in range(len(sizes))]
        assert flat(batches) == list(range(start, start + num_samples))
        assert [len(batch) for batch in batches] == sizes


def test_evaluation_in_a_training() -> None:
    data = Indices(30, 10, 7, batch_size=8, eval_batch_size=4)
    model, trainer = jobs.fit(model=Recorder(), data=data, max_epochs=2)
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    assert isinstance(model, Recorder)
    assert model.val_batches == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109]] * 3
    assert model.test_batches == [[200, 201, 202, 203], [204, 205, 206]]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "devices", "share"),
    [
        (12, 1, 1, 12),
        (12, 3, 1, 4),
        (12, 5, 1, 3),  # micro-batches of 3 3 2 2 2
        (12, 1, 2, 6),
        (12, 2, 2, 3),
        ("full", 1, 1, 30),
        ("full", 4, 2, 4),  # 15 samples a device in pieces of 4 4 4 3
    ],
)
def test_by_default_an_evaluation_has_the_batches_of_training_and_their_micro_batches(
    batch_size: Any, accumulate: int, devices: int, share: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Trainer, "world_size", devices, raising=False)
    data = Indices(30, 720, 720, batch_size=batch_size)
    data.trainer = jobs.trainer(accumulate_grad_batches=accumulate, max_epochs=1)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        size, sampler = 30 if batch_size == "full" else batch_size, loader.batch_sampler  # pyright: ignore
        assert len(loader) == 720 / size
        assert {len(batch) for batch in loader} == {size / devices}
        assert {-(-size // devices // sampler.pieces(0)) for _ in loader} == {share}  # pyright: ignore


def test_no_validation_and_no_test() -> None:
    data = Indices(30, batch_size=8)
    model, trainer = jobs.fit(model=Recorder(), data=data, max_epochs=1, num_sanity_val_steps=2)
    assert trainer.global_step == 4
    assert isinstance(model, Recorder)
    assert model.val_batches == []
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    assert model.val_batches == model.test_batches == []


# ---- data sets of one's own ------------------------------------------------------------------------------------


class Words(Dataset):
    """Samples that default_collate cannot put together: texts of different lengths, as lists of letters."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> list[str]:
        return list(self.words[index])


class Texts(DataModule):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.collate = lambda samples: ["".join(sample) for sample in samples]

    def load(self) -> Splits:
        return Splits(train=Words(["a", "bb", "ccc", "dd", "e"]), val=Words(["x", "yy", "zzz"]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_sets_with_a_collate_function_of_their_own(num_workers: int) -> None:
    model = recorded(Texts(batch_size=2, num_workers=num_workers, shuffle=False), max_epochs=1)
    assert model.train_epochs == [[["a", "bb"], ["ccc", "dd"], ["e"]]]
    assert model.val_batches == [["x", "yy"], ["zzz"]]


class Jobs(jobs.Data):
    """The training of `jobs`, from another kind of data set."""

    def __init__(self, dataset: Callable[[Tensor, Tensor], Any], **options: Any) -> None:
        super().__init__(batch_size=20, **options)
        self.dataset = dataset

    def load(self) -> Splits:
        return Splits(train=self.dataset(jobs.X[:45], jobs.Y[:45]), val=(jobs.X[:23], jobs.Y[:23]))


class Noisy(TensorDataset):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), y


def trained(dataset: Callable[..., Any], **options: Any) -> Tensor:
    model = jobs.Net(dropout=0.3)
    jobs.fit(model=model, data=Jobs(dataset, **options), max_epochs=2)
    return jobs.weights(model)


def test_the_same_weights_from_rows_and_from_single_samples() -> None:
    """Dropout draws in the same process as the reader seeds its generators."""
    rows = trained(lambda x, y: (x, y))
    for dataset in (TensorDataset, lambda x, y: list(zip(x, y, strict=True))):
        assert torch.equal(trained(dataset), rows)


def test_the_same_weights_from_any_number_of_workers() -> None:
    expected = trained(Noisy)
    assert torch.equal(trained(Noisy, num_workers=2), expected)
    assert not torch.equal(trained(TensorDataset), expected)


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_workers", "pin_memory", "device", "pinned"),
    [
        (0, None, "cpu", False),
        (2, None, "cpu", False),
        (0, None, "cuda", True),
        (0, True, "cpu", True),
        (1, False, "cuda", False),
    ],
)
def test_loader_options(num_workers: int, pin_memory: Any, device: str, pinned: bool) -> None:
    data = Indices(30, 5, 5, batch_size=8, num_workers=num_workers, pin_memory=pin_memory, on_device=False)
    data.trainer = jobs.trainer()
    data.trainer.strategy._root_device = torch.device(device)  # pyright: ignore
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert isinstance(loader, DataLoader)
        assert (loader.num_workers, loader.pin_memory) == (num_workers, pinned)
        assert loader.persistent_workers is (num_workers > 0)


class Stated(DataModule):
    """Gives what it was told to."""

    def __init__(self, splits: Any, **options: Any) -> None:
        super().__init__(**options)
        self.stated = splits

    def load(self) -> Splits:
        return self.stated


ONE, NONE = torch.ones(1), torch.ones(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Indices(batch_size=31), "data.batch_size=31 is larger than the 30 training samples"),
        (lambda: Indices(batch_size=0), "data.batch_size=0 is not a number of samples"),
        (lambda: Indices(batch_size="half"), "data.batch_size='half' is not a number of samples"),
        (lambda: Indices(num_workers=-1), "data.num_workers=-1 is not a number of processes from 0 up"),
        (lambda: Indices(eval_batch_size=0), "data.eval_batch_size=0 is not a number of samples from 1 up"),
        (lambda: Indices(eval_batch_size=-3), "data.eval_batch_size=-3 is not a number of samples from 1 up"),
        (lambda: Indices(batch_growth={"facto": 2}, batch_size=8), "data.batch_growth does not know 'facto'"),
        (lambda: Indices(train=None), "Indices has no training data set"),
        (lambda: Indices(train=0), "the training data set of Indices is empty"),
        (lambda: Indices(30, val=0), "the validation data set of Indices is empty"),
        (lambda: Indices(30, test=0), "the test data set of Indices is empty"),
        (lambda: Stated(Splits(train=[])), "the training data set of Stated is empty"),
        (lambda: Stated(Splits(train=5)), "a data set must be a map-style Dataset"),
        (lambda: Stated(Splits(train=ONE, val=(ONE, NONE))), "equally long, and these have lengths [1, 0]"),
    ],
)
def test_what_is_refused(make: Callable[[], DataModule], message: str) -> None:
    with pytest.raises(InputError) as error:
        jobs.fit(model=Recorder(), data=make())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_data_module_without_load() -> None:
    class Mine(DataModule):
        pass

    with pytest.raises(NotImplementedError, match=r"^Mine must define load\(self\) -> Splits$"):
        jobs.fit(model=Recorder(), data=Mine())


def test_lightnings_own_trainer_is_refused() -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"^Indices gives whole batches.* use metronome\.training\.Trainer$"):
        trainer.fit(Recorder(), datamodule=Indices(30, 5))
    give_loaders_back()  # which Lightning's own Trainer has left replaced, for the tests after this one
    model = Recorder()
    trainer.validate(model, datamodule=Indices(30, 5, batch_size=2), verbose=False)  # batches mean the same there
    assert model.val_batches == [[100, 101], [102, 103], [104]]


@pytest.mark.parametrize("kind", ["train", "val", "test"])
def test_a_loader_needs_a_trainer(kind: str) -> None:
    with pytest.raises(InputError, match=r"^Indices has no Trainer yet.*set its `trainer` first.*$"):
        getattr(Indices(30, 5, 5, batch_size=8), f"{kind}_dataloader")()


def test_load_is_called_once() -> None:
    calls = []

    class Counted(Indices):
        def load(self) -> Splits:
            calls.append(1)
            return super().load()

    data = Counted(30, 5, 5, batch_size=8)
    model, trainer = jobs.fit(model=Recorder(), data=data, max_epochs=2)
    trainer.test(model, datamodule=data, verbose=False)
    assert len(calls) == 1
