"""Arrow tables and Hugging Face data sets as splits: `pip install -e '.[data]'`, without which this is left out."""

import pickle
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch

from metronome.data import DataModule, Splits, mapped
from metronome.data.rows import as_dataset
from metronome.data.stored.tables import Table
from metronome.units import InputError

pa = pytest.importorskip("pyarrow")
N = 50
ROWS = np.array([7, 49, 0, 7, 31])
X, Y = np.arange(N * 3.0).reshape(N, 3) / 7, np.arange(N, dtype="i4") % 5
EXPECTED = {"x": torch.from_numpy(X[ROWS]), "y": torch.from_numpy(Y[ROWS]).long(), "b": torch.from_numpy(ROWS % 2 == 1)}


def table(list_size: int = -1) -> Any:
    """`x`: three float64 a row, in a list or, of `list_size` 3, in one of fixed size; `y`: int32; `b`: booleans."""
    x = pa.array(X.tolist(), pa.list_(pa.float64(), list_size))
    return pa.table({"x": x, "y": pa.array(Y), "b": pa.array(np.arange(N) % 2 == 1)})


def in_chunks(whole: Any, size: int = 7) -> Any:
    return pa.concat_tables([whole.slice(start, size) for start in range(0, len(whole), size)])


def written(folder: Path, whole: Any, kind: str) -> Path:
    path = folder / f"t.{kind}"
    if kind == "parquet":
        from pyarrow import parquet  # pyright: ignore

        parquet.write_table(whole, path, row_group_size=20)
        return path
    make = pa.ipc.new_stream if kind == "feather" else pa.ipc.new_file  # datasets writes streams
    with pa.OSFile(str(path), "wb") as sink, make(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=11)
    return path


def read(source: Any, index: Any = ROWS) -> Any:
    dataset = as_dataset(source)
    assert dataset.is_stored
    assert len(dataset) == N
    return dataset[torch.from_numpy(index)]


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("list_size", [-1, 3], ids=["lists", "fixed lists"])
@pytest.mark.parametrize("make", [lambda t: t, in_chunks], ids=["whole", "chunks"])
def test_a_table(make: Any, list_size: int) -> None:
    given = make(table(list_size))
    same(read(given), EXPECTED)
    same(read((given.select(["x"]), given["y"])), ({"x": EXPECTED["x"]}, EXPECTED["y"]))
    same(read(given["y"].combine_chunks()), EXPECTED["y"])
    same(read(given.slice(0, N), np.arange(N)), read(given, np.arange(N)))
    same(as_dataset(given.slice(10))[torch.tensor([0, 30])], read(given, np.array([10, 40])))
    same(as_dataset(pickle.loads(pickle.dumps(as_dataset(given))))[torch.from_numpy(ROWS)], EXPECTED)


@pytest.mark.parametrize("kind", ["arrow", "feather", "parquet"])
def test_a_file_is_mapped_and_sent_by_its_name(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, table(), kind)
    before = pa.total_allocated_bytes()
    opened = mapped(path)
    assert isinstance(opened, Table)
    assert pa.total_allocated_bytes() == before
    sent = pickle.dumps(opened)
    assert len(sent) < 1000
    for each in (opened, pickle.loads(sent)):
        same(read(each), EXPECTED)
    same(read(mapped(path, ["y"])), {"y": EXPECTED["y"]})
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "t.parquet.arrow"}


def test_a_parquet_file_is_converted_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    path = written(tmp_path, table(), "parquet")
    mapped(path)
    made = path.with_name("t.parquet.arrow")
    first = made.stat().st_mtime_ns
    mapped(path)
    assert made.stat().st_mtime_ns == first
    written(tmp_path, table().slice(0, 20), "parquet")
    assert len(mapped(path)) == 20


def refused(source: Any) -> str:
    with pytest.raises(InputError) as error:
        source()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_in_one_line(tmp_path: Path) -> None:
    names = pa.table({"x": [1.0, 2.0], "name": ["a", "b"]})
    assert refused(lambda: as_dataset(names)) == (
        "column 'name' of a data set must hold numbers, and holds text; encode it, or leave it out, with "
        "table.drop_columns(['name'])"
    )
    when = pa.table({"t": pa.array([1, 2], pa.timestamp("s"))})
    assert "holds timestamp[s]" in refused(lambda: as_dataset(when))
    assert refused(lambda: as_dataset(pa.table({"x": [1.0, None]}))).startswith(
        "values are missing: 1 in column 'x', of 2 rows"
    )
    inner = as_dataset(pa.table({"x": [[1.0, None], [1.0, 2.0]]}))
    assert "values are missing: 1 in column 'x'" in refused(lambda: inner[torch.tensor([0])])
    assert refused(lambda: as_dataset(pa.table({}))) == "a table of a data set has no columns"
    ragged = as_dataset(in_chunks(pa.table({"x": [[1, 2], [3], [4, 5]]}), 1))
    for rows in ([0, 1], [1, 2]):
        assert "lists of unequal lengths" in refused(lambda rows=rows: ragged[torch.tensor(rows)])
    same(ragged[torch.tensor([2, 0])], {"x": torch.tensor([[4, 5], [1, 2]])})
    assert refused(lambda: as_dataset((table(), np.zeros(3)))).endswith("these have lengths [50, 3]")


def test_files_that_cannot_be_mapped(tmp_path: Path) -> None:
    from pyarrow import feather  # pyright: ignore

    feather.write_feather(pa.table({"x": np.zeros(10**5)}), tmp_path / "a.feather", compression="lz4")
    assert "is compressed, and to read any of it" in refused(lambda: mapped(tmp_path / "a.feather"))
    for kind in ("arrow", "parquet"):
        path = written(tmp_path, table(), kind)
        path.write_bytes(path.read_bytes()[:-20])
        assert "is no whole Arrow or parquet file" in refused(lambda path=path: mapped(path))
        path.write_bytes(b"\xff" * 100)
        assert "is no whole Arrow or parquet file" in refused(lambda path=path: mapped(path))


def test_a_table_of_much_memory_is_not_sent_to_workers() -> None:
    large = as_dataset(pa.table({"x": np.zeros(2**23 + 1)}))
    assert "would be copied to each worker" in refused(lambda: pickle.dumps(large))


# ---- Hugging Face ----------------------------------------------------------------------------------------


@pytest.fixture
def hugging_face() -> Any:
    package = pytest.importorskip("datasets")
    package.disable_progress_bars()
    return package


def test_a_data_set_of_hugging_face(hugging_face: Any) -> None:
    """Floats as they are stored, where its format of torch makes float32 of them; what was selected, in its order."""
    whole = hugging_face.Dataset(table())
    same(read(whole), EXPECTED)
    same(read(whole.with_format("torch")), EXPECTED)
    same(read(whole.with_format("torch", columns=["y"])), {"y": EXPECTED["y"]})
    same(read((whole["x"], whole["y"])), (EXPECTED["x"], EXPECTED["y"]))
    order = np.random.default_rng(0).permutation(N)
    same(read(whole.select(order)), read(whole, order[ROWS]))
    fixed = whole.cast_column("y", hugging_face.ClassLabel(num_classes=5))
    same(read(fixed), EXPECTED)
    shaped = hugging_face.Dataset.from_dict(
        {"x": [np.full((2, 3), i) for i in range(N)]},
        features=hugging_face.Features({"x": hugging_face.Array2D((2, 3), "float32")}),
    )
    same(read(shaped), {"x": torch.from_numpy(ROWS).float()[:, None, None].expand(-1, 2, 3)})


def test_a_data_set_of_hugging_face_with_text(hugging_face: Any) -> None:
    texts = hugging_face.Dataset.from_dict({"text": ["a", "bb", "ccc"], "y": [0, 1, 2]})
    assert refused(lambda: as_dataset(texts)).endswith("with dataset.remove_columns(['text'])")
    nulls = hugging_face.Dataset.from_dict({"y": [0, None, 2]})
    assert "values are missing: 1 in column 'y'" in refused(lambda: as_dataset(nulls)[torch.tensor([0, 1])])

    class Texts(DataModule):
        def load(self) -> Splits:
            self.collate = lambda samples: ([len(s["text"]) for s in samples], torch.tensor([s["y"] for s in samples]))
            return Splits(texts)

    data = Texts(batch_size=3, shuffle=False)
    data.trainer = jobs.trainer()
    lengths, labels = next(iter(data.train_dataloader()))
    assert (lengths, labels.tolist()) == ([1, 2, 3], [0, 1, 2])


def test_all_splits_of_hugging_face_are_no_data_set(hugging_face: Any) -> None:
    part = hugging_face.Dataset.from_dict({"x": X})
    assert "a DatasetDict; it has 'train', 'test': give one" in refused(
        lambda: as_dataset(hugging_face.DatasetDict(train=part, test=part))
    )


@pytest.mark.slow
def test_a_stream_of_hugging_face_gives_the_batches_of_a_data_set(hugging_face: Any) -> None:
    """Lists are rows of a tensor, in float64 as they are stored, with a worker too."""
    whole = hugging_face.Dataset.from_dict({"x": jobs.X.numpy(), "y": jobs.Y.numpy()})

    class Given(DataModule):
        def load(self) -> Splits:
            return Splits(whole.to_iterable_dataset(num_shards=3) if self.num_workers < 2 else whole)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch["x"], batch["y"]

    runs = [
        jobs.weights(jobs.fit(data=Given(batch_size=32, num_workers=n, shuffle=False), max_epochs=2)[0])
        for n in (0, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_a_function_of_the_users_is_called_for_each_sample(hugging_face: Any) -> None:
    """With random numbers of its own."""

    def noisy(batch: Any) -> Any:
        assert len(batch["y"]) == 1
        return {"y": [torch.rand(()) + y for y in batch["y"]]}

    class Noisy(DataModule):
        def load(self) -> Splits:
            return Splits(hugging_face.Dataset.from_dict({"y": [0.0] * 8}).with_transform(noisy))

    def first(batch_size: int) -> Any:
        data = Noisy(batch_size=batch_size)
        data.trainer = jobs.trainer()
        return torch.cat([batch["y"] for batch in data.train_dataloader()])

    assert torch.equal(first(8), first(3))
    assert len(first(8).unique()) == 8


class Pairs(DataModule):
    def __init__(self, make: Any, **options: Any) -> None:
        super().__init__(batch_size=32, **options)
        self.make = make

    def load(self) -> Splits:
        return Splits(*(self.make(jobs.X[:size].numpy(), jobs.Y[:size].numpy()) for size in (jobs.N, 23, 31)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "datasets"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_has_the_weights_of_one_in_memory(kind: str, workers: int, hugging_face: Any) -> None:
    def make(x: Any, y: Any) -> Any:
        arrow = pa.table({"x": x.tolist(), "y": y.tolist()})
        return (
            (arrow["x"], arrow["y"]) if kind == "table" else (lambda d: (d["x"], d["y"]))(hugging_face.Dataset(arrow))
        )

    expected, _ = jobs.fit()
    found, _ = jobs.fit(data=Pairs(make, num_workers=workers))
    assert torch.equal(jobs.weights(found), jobs.weights(expected))
    assert found.val_losses == expected.val_losses
