"""What stays where it is stored: read a batch at a time, as the same rows in memory would be."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from commands import PROJECT
from torch.utils._pytree import tree_map

from metronome.data import DataModule, Rows, Splits, mapped, on_device
from metronome.data.rows import as_dataset
from metronome.data.stored import pages
from metronome.data.stored.mapped import MappedArray
from metronome.data.stored.stored import Stored
from metronome.units import InputError

N = 50
ROWS = np.array([7, 49, 0, 7, 31])


def array(kind: str = "f8", *shape: int) -> np.ndarray:
    return (np.arange(N * int(np.prod(shape, dtype=int))).reshape(N, *shape) * 3 % 251).astype(kind)


def on_disk(folder: Path, values: np.ndarray) -> np.memmap:
    np.save(folder / "x.npy", values)
    return np.load(folder / "x.npy", mmap_mode="r")


class Computed:
    """Rows that are worked out when they are asked for, as h5py gives them: increasing ones alone."""

    def __init__(self, values: np.ndarray, num_rows: int | None = None) -> None:
        self.values, self.shape, self.dtype = values, (num_rows or len(values), *values.shape[1:]), values.dtype
        self.asked: list[int] = []

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        assert (np.diff(rows) > 0).all()
        self.asked += rows.tolist()
        return self.values[rows]


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", ">f4", "u1", "u2", "i4", "i8", "?", "g", "c8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4)], ids=str)
def test_rows_are_those_of_the_array_in_memory(kind: str, shape: tuple, tmp_path: Path) -> None:
    """Types too: what PyTorch does not compute with is widened, one whole number a sample is int64."""
    values = array(kind, *shape)
    for stored in (on_disk(tmp_path, values), Computed(values)):
        dataset, expected = as_dataset((stored, values)), Rows((values, values))
        assert isinstance(dataset, Rows)
        assert dataset.is_stored
        assert len(dataset) == N
        for index in (torch.from_numpy(ROWS), slice(3, 20, 4), 5, -1):
            torch.testing.assert_close(dataset[index], expected[index], rtol=0, atol=0)


@pytest.mark.parametrize(
    "part",
    [np.s_[:20], np.s_[10:], np.s_[::3], np.s_[::-1], np.s_[:, 1:], np.s_[:, ::-1], np.s_[::-2, 1], np.s_[:, None]],
    ids=str,
)
@pytest.mark.parametrize("offset", [0, 16, pages._PAGE + 24])
def test_parts_of_a_file_here_and_in_another_process(part: Any, offset: int, tmp_path: Path) -> None:
    """What is sent to a worker is the name of the file, and the place in it."""
    values = array("f4", 3)
    (tmp_path / "x.bin").write_bytes(bytes(offset) + values.tobytes())
    given = np.memmap(tmp_path / "x.bin", dtype="f4", mode="r", offset=offset, shape=values.shape)[part]
    column = Rows(given).columns
    assert isinstance(column, MappedArray)
    sent = pickle.dumps(column)
    assert len(sent) < 1000
    rows = np.array([3, 0, 2])
    for each in (column, pickle.loads(sent)):
        assert each.read(rows).numpy().tolist() == values[part][rows].tolist()
        each.pages._announced = 1
        assert each.read(rows).numpy().tolist() == values[part][rows].tolist()


def test_a_view_of_a_map_is_one_too(tmp_path: Path) -> None:
    view = np.asarray(on_disk(tmp_path, array()))
    assert type(view) is np.ndarray
    assert as_dataset(view).is_stored
    assert not as_dataset(np.array(view)).is_stored


def test_what_is_mapped_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process has read much of a file; never where that would take changes away."""
    monkeypatch.setattr(pages, "_KEPT", 2**20)
    values = np.ones((2**10, 256))
    np.save(tmp_path / "x.npy", values)
    for mode in ("r", "c"):
        given = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            given[:] = 2
        column, every = MappedArray(given), np.arange(2**10)
        most = 0
        for start in range(0, 2**10, 8):
            most = max(most, column.pages._mapped)
            assert (column.read(every[start : start + 8]) == (2 if mode == "c" else 1)).all()
        assert most <= (0 if mode == "c" else 2**20)
        assert (most > 0) == (mode == "r")


def test_changes_of_a_map_are_not_lost_on_the_way(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array())
    with pytest.raises(InputError, match='mode "c", whose changes'):
        pickle.dumps(MappedArray(np.load(tmp_path / "x.npy", mmap_mode="c")))


class Data(DataModule):
    def __init__(self, x: Any, y: Any, **options: Any) -> None:
        super().__init__(batch_size=32, **options)
        self.x, self.y = x, y

    def load(self) -> Splits:
        return Splits((self.x, self.y), (self.x[:23], self.y[:23]), (self.x[:31], self.y[:31]))


@pytest.fixture
def stored(tmp_path: Path) -> tuple[np.memmap, np.memmap]:
    np.save(tmp_path / "x.npy", jobs.X.numpy())
    np.save(tmp_path / "y.npy", jobs.Y.numpy())
    return np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")


def test_a_training_is_that_of_a_plain_loop(stored: Any) -> None:
    found, losses = jobs.plain_loop()
    net, _ = jobs.fit(data=Data(*stored), accumulate_grad_batches=3)
    torch.testing.assert_close(jobs.weights(net), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(net.step_losses, losses, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bit_for_bit_as_in_memory_and_as_uninterrupted(workers: int, stored: Any, tmp_path: Path) -> None:
    expected, _ = jobs.fit(model=jobs.Net(dropout=0.2))
    whole, _ = jobs.fit(model=jobs.Net(dropout=0.2), data=Data(*stored, num_workers=workers))
    _, run = jobs.fit(model=jobs.Net(dropout=0.2), data=Data(*stored, num_workers=workers), max_steps=7, max_epochs=-1)
    run.save_checkpoint(tmp_path / "middle.ckpt")
    resumed, _ = jobs.fit(
        model=jobs.Net(dropout=0.2),
        data=Data(*stored, num_workers=2 - workers),
        checkpoint=str(tmp_path / "middle.ckpt"),
    )
    assert torch.equal(jobs.weights(whole), jobs.weights(expected))
    assert whole.val_losses == expected.val_losses
    assert torch.equal(jobs.weights(resumed), jobs.weights(expected))


@pytest.mark.slow
def test_two_processes_as_one(stored: Any, tmp_path: Path) -> None:
    model = jobs.Net(record=tmp_path / "seen.pt")
    jobs.fit(model=model, data=Data(*stored), devices=2, strategy="ddp_fork")
    found = torch.load(tmp_path / "seen.pt")
    torch.testing.assert_close(found["weights"], jobs.plain_loop()[0], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_workers_that_are_started_anew_read_the_same(stored: Any) -> None:
    """They are sent names: of a tensor, or of what a fork has, they would get a copy of the whole."""
    script = """
import sys, multiprocessing
import numpy as np, torch
from metronome.data.rows import BatchReader, as_dataset, whole_batch
from metronome.training.batches.order import BatchSampler
from metronome.units import BatchSchedule
from torch.utils.data import DataLoader
if __name__ == "__main__":
    dataset = as_dataset(tuple(np.load(path, mmap_mode="r") for path in sys.argv[1:]))
    def loader(**more):
        sampler = BatchSampler(len(dataset), BatchSchedule(32), seed=1)
        return DataLoader(BatchReader(dataset, 1), batch_sampler=sampler, collate_fn=whole_batch, **more)
    here = list(loader())
    for mine, theirs in zip(here, loader(num_workers=1, multiprocessing_context="spawn"), strict=True):
        assert all(map(torch.equal, mine, theirs))
    print("same", len(here))
"""
    folder = Path(stored[0].filename).parent
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder / "x.npy"), str(folder / "y.npy")],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip
    assert done.stdout == "same 5\n", done.stderr


def test_it_is_never_taken_to_a_device_as_a_whole(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "is_far", lambda device: True)
    monkeypatch.setattr(on_device, "free_bytes", lambda device: 10**12)
    data = Data(*stored)
    data.trainer = jobs.trainer()
    data.trainer.strategy.connect(jobs.Net())
    assert not isinstance(data.train_dataloader().dataset, on_device.DeviceReader)
    assert on_device.num_bytes(data.splits.train) == 0
    with pytest.raises(InputError) as error:
        Data(*stored, on_device=True).setup()
    assert "the training data set of Data is stored, and only batches of it are read" in str(error.value)


def test_it_is_never_cast_as_a_whole(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float64 for weights of float32 each batch is."""
    seen = []
    monkeypatch.setattr(MappedArray, "read", lambda self, rows: seen.append(len(rows)) or torch.zeros(len(rows), 10))
    data = Data(*stored)
    data.trainer = jobs.trainer()
    data.trainer.strategy.connect(jobs.Net().float())
    next(iter(data.train_dataloader()))
    assert seen == [32, 32]


def test_only_the_rows_of_a_batch_are_asked_for() -> None:
    """Of 10**12 rows, in any epoch, at any step: nothing takes longer or more memory for there being many."""

    class Endless(Computed):
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.asked += rows.tolist()
            return (rows[:, None] * np.arange(1, 11) % 97 / 97).astype("f4")

    x = Endless(np.empty((0, 10)), 10**12)

    class Many(DataModule):
        def load(self) -> Splits:
            return Splits((x, x))

    data = Many(batch_size=32)
    _, run = jobs.fit(data=data, max_steps=3, model=OneNumber())
    assert run.plan.as_dict()["steps_per_epoch"] == 10**12 // 32
    assert run.global_step == 3
    assert len(x.asked) % 32 == 0
    assert len(x.asked) < 10 * 2 * 32
    assert max(x.asked) > 10**9


class OneNumber(jobs.Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        pass


# ---- files by their names --------------------------------------------------------------------------------


def write_safetensors(path: Path, columns: dict[str, tuple[str, np.ndarray]], cut: int = 0) -> Path:
    """As the format is described, to be read without the package."""
    header, parts, end = {"__metadata__": {"by": "hand"}}, [], 0
    for name, (kind, values) in columns.items():
        parts.append(values.tobytes())
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}  # pyright: ignore
        end += values.nbytes
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + b"".join(parts)
    path.write_bytes(whole[: len(whole) - cut])
    return path


def test_safetensors(tmp_path: Path) -> None:
    x, y = array("f4", 3), array("i8")
    half = torch.arange(N, dtype=torch.bfloat16)[:, None] / 7
    file = write_safetensors(
        tmp_path / "a.safetensors",
        {"x": ("F32", x), "y": ("I64", y), "h": ("BF16", half.view(torch.int16).numpy())},
    )
    dataset = as_dataset(mapped(file))
    assert dataset.is_stored
    expected = {"x": torch.from_numpy(x), "y": torch.from_numpy(y), "h": half}
    again = pickle.loads(pickle.dumps(dataset))
    for each in (dataset, again):
        torch.testing.assert_close(
            each[torch.from_numpy(ROWS)], tree_map(lambda part: part[ROWS], expected), rtol=0, atol=0
        )
    assert list(mapped(file, ["y"])) == ["y"]


def test_safetensors_as_the_package_writes_them(tmp_path: Path) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    columns = {"x": torch.randn(N, 3), "y": torch.arange(N), "h": torch.randn(N).bfloat16(), "b": torch.ones(N).bool()}
    torch_files.save_file(columns, tmp_path / "a.safetensors")
    found = as_dataset(mapped(tmp_path / "a.safetensors"))[torch.from_numpy(ROWS)]
    torch.testing.assert_close(found, tree_map(lambda part: part[ROWS], columns), rtol=0, atol=0)
    handle = pytest.importorskip("safetensors").safe_open(tmp_path / "a.safetensors", "pt")
    with pytest.raises(InputError, match=r"metronome.data.mapped\(path\) makes them"):
        as_dataset(handle)


def test_npy(tmp_path: Path) -> None:
    on_disk(tmp_path, array("f4", 3))
    column = mapped(tmp_path / "x.npy")
    assert isinstance(column, Stored)
    assert column.read(ROWS).tolist() == array("f4", 3)[ROWS].tolist()


# ---- plain mistakes --------------------------------------------------------------------------------------


def refused(what: Any) -> str:
    with pytest.raises(InputError) as error:
        what()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_in_one_line(tmp_path: Path) -> None:
    x = on_disk(tmp_path, array())
    assert refused(lambda: as_dataset((x, x[:40]))).endswith("equally long, and these have lengths [50, 40]")
    names = np.memmap(tmp_path / "names", dtype="U4", mode="w+", shape=N)
    assert "must hold numbers, and this one holds text ('')" in refused(lambda: as_dataset(names))
    records = np.memmap(tmp_path / "records", dtype=[("a", "f4"), ("b", "i4")], mode="w+", shape=N)
    assert "make numbers of it" in refused(lambda: as_dataset(records))
    assert "holds objects" in refused(lambda: as_dataset(Computed(np.array(["a", 1], dtype=object))))
    assert refused(lambda: mapped(tmp_path / "y.npy")) == f"there is no file {tmp_path / 'y.npy'}"
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    assert "is cut short" in refused(lambda: mapped(tmp_path / "x.npy"))
    (tmp_path / "x.npy").write_bytes(b"")
    assert "is cut short" in refused(lambda: mapped(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", 1.0)
    assert "holds one number" in refused(lambda: mapped(tmp_path / "x.npy"))
    np.savez(tmp_path / "x.npz", x=array(), y=array())
    assert "a NpzFile; it has 'x', 'y': give one of them" in refused(lambda: as_dataset(np.load(tmp_path / "x.npz")))
    sent = pickle.dumps(as_dataset(on_disk(tmp_path, array())))
    on_disk(tmp_path, array()[:40])
    assert "has become shorter since it was mapped" in refused(lambda: pickle.loads(sent))
    np.save(tmp_path / "o.npy", np.array([1, "a"], dtype=object))
    assert "holds Python objects" in refused(lambda: mapped(tmp_path / "o.npy"))
    (tmp_path / "a.txt").write_text("a")
    assert ".safetensors, .arrow" in refused(lambda: mapped(tmp_path / "a.txt"))
    (tmp_path / "t.npy").write_text("a,b")
    assert "no array that np.save wrote" in refused(lambda: mapped(tmp_path / "t.npy"))
    columns = {"x": ("F32", array("f4"))}
    cut = write_safetensors(tmp_path / "a.safetensors", columns, cut=1)
    assert "is cut short: it has" in refused(lambda: mapped(cut))
    cut.write_bytes(b"\x00" * 8)
    assert "no safetensors file" in refused(lambda: mapped(cut))
    whole = write_safetensors(tmp_path / "a.safetensors", columns)
    assert refused(lambda: mapped(whole, ["z"])) == f"{whole} has no column 'z'; it has x"


def test_an_array_that_gives_other_rows_than_asked() -> None:
    class Wrong(Computed):
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            return self.values[:2]

    dataset = as_dataset(Wrong(array()))
    assert "asked for 3 rows, an array of int64, and gave 2" in refused(lambda: dataset[torch.tensor([1, 2, 3])])


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert refused(lambda: mapped(tmp_path / "a.parquet")).endswith("needs pyarrow: pip install -e '.[data]'")
