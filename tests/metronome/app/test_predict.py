"""A checkpoint and data or files in, a table out; and the notebook that looks at a run."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from commands import PROJECT, Commands, Done
from forked import run_forked
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import metronome
from metronome.app import predict as predicting
from metronome.app.predicting.files import read_samples
from metronome.app.predicting.table import columns_of, head, joined
from metronome.models import Classifier, Regressor
from metronome.training import Trainer
from metronome.units import InputError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    job = ("+experiment=digits", "trainer=cpu", "trainer.max_epochs=2", "model=mlp")
    done = run_forked(tmp_path_factory.mktemp("trained"), "train", *job)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def checkpoint(trained: Done, commands: Commands) -> str:
    """In the folder of the command."""
    shutil.copy(trained.run / "checkpoints/best.ckpt", commands.folder / "best.ckpt")
    return "best.ckpt"


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def of_hand(checkpoint: Path, inputs: torch.Tensor) -> torch.Tensor:
    """The probabilities, by the network alone."""
    model: Any = metronome.load(checkpoint)
    with torch.no_grad():
        return model.network(inputs).softmax(dim=1)


def test_a_split_as_a_table(trained: Done, checkpoint: str, commands: Commands) -> None:
    done = commands("predict", checkpoint, "--split", "test", "data.eval_batch_size=50", "--out", "table.csv")
    assert done.code == 0, done.err
    assert done.err == ""
    assert all(len(line) <= 80 for line in done.out.splitlines())
    tested = trained.result["metrics"]
    assert f"test/acc {tested['test/acc']:.4g}  test/loss {tested['test/loss']:.4g}" in done.out
    from project.data import Digits

    images, labels = Digits().splits.test[:]
    rows = rows_of(commands.folder / "table.csv")
    assert list(rows[0]) == ["index", "prediction", "label", "loss", *(f"p_{i}" for i in range(10))]
    assert [int(row["index"]) for row in rows] == list(range(360))
    assert [int(row["label"]) for row in rows] == labels.tolist()
    expected = of_hand(commands.folder / checkpoint, images)
    found = torch.tensor([[float(row[f"p_{i}"]) for i in range(10)] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert [int(row["prediction"]) for row in rows] == expected.argmax(dim=1).tolist()
    own_losses = -expected[torch.arange(360), labels].log()
    assert [float(row["loss"]) for row in rows] == pytest.approx(own_losses.tolist(), rel=1e-3, abs=1e-6)


def test_the_metrics_are_those_of_an_evaluation(trained: Done) -> None:
    path = trained.run / "checkpoints/best.ckpt"
    tested = {name: value for name, value in trained.result["metrics"].items() if name.startswith("test/")}
    assert metronome.predict(path).metrics == pytest.approx(tested, rel=1e-5)
    assert metronome.predict(path, split="val").metrics["val/loss"] == pytest.approx(trained.result["best"]["value"])
    assert len(metronome.predict(path, split="train")) == 1257
    assert not (trained.run / "predictions").exists(), "only what is asked for is written"


def test_files(checkpoint: str, commands: Commands) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (7, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = pixels.float() / 255
    expected = of_hand(commands.folder / checkpoint, images).numpy()
    np.save(commands.folder / "inputs.npy", images.double().numpy())
    np.savez(commands.folder / "labelled.npz", x=images.numpy(), y=np.arange(7, dtype=np.int32))
    for i, picture in enumerate(pixels):
        (commands.folder / "pictures/deep").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0].numpy()).convert("RGB").save(commands.folder / f"pictures/deep/{i}.png")
    with open(commands.folder / "flat.csv", "w") as file:
        file.write(",".join(f"pixel{j}" for j in range(64)) + "\n")
        file.writelines(",".join(map(repr, image.flatten().tolist())) + "\n" for image in images)
    for name in ("inputs.npy", "labelled.npz", "pictures", "flat.csv"):
        done = commands("predict", checkpoint, "--input", name, "--out", f"{name}.csv", "--top", "2")
        assert done.code == 0, done.err
        rows = rows_of(commands.folder / f"{name}.csv")
        assert [int(row["top_1"]) for row in rows] == expected.argmax(axis=1).tolist(), name
        assert [float(row["p_top_1"]) for row in rows] == pytest.approx(expected.max(axis=1).tolist(), rel=1e-5)
        assert [int(row["top_2"]) for row in rows] == np.argsort(-expected, axis=1)[:, 1].tolist()
        assert ("label" in rows[0], "metrics    acc " in done.out) == (name == "labelled.npz",) * 2
        assert rows[0].get("file") == ("deep/0.png" if name == "pictures" else None)
    assert not (commands.folder / "predictions").exists()


def test_where_it_is_written(trained: Done, commands: Commands) -> None:
    done = commands("predict", str(trained.run / "checkpoints/best.ckpt"), "--split=val")
    assert done.code == 0, done.err
    assert len(rows_of(trained.run / "predictions/best_val.csv")) == 180
    shutil.rmtree(trained.run / "predictions")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "nope"], "--split nope is none of train, val, test"),
        (["--split", "val", "--input", "a.npy"], "give one of them"),
        (["--input", "nope.csv"], "there is no file nope.csv"),
        (["--input", "best.ckpt"], "what can be read is .csv"),
        (["--input", "words.csv"], "'two' in row 2, column b, is no number"),
        (["--input", "ragged.csv"], "row 2 has 1 values, and there are 2 columns"),
        (["--input", "empty"], "empty has no picture in it"),
        (["--input", "narrow.csv"], "mat1 and mat2 shapes cannot be multiplied (2x2 and 64x128)"),
        (["--input", "several.npz"], "several.npz has the arrays a, b; give one of inputs"),
        (["--input", "broken.npy"], "cannot read broken.npy"),
        (["--out", "table.xls"], "use .csv or .parquet"),
        (["--out", "folder.csv"], "folder.csv is a folder; name a file in it"),
        (["--input", "semicolons.csv"], "semicolons.csv has ';' between its values; write commas"),
        (["--input", "nothing.csv"], "error: nothing.csv is empty"),
        (["--top", "0"], "--top=0"),
        (["data.nope=3"], "'data.nope=3' changes nothing in the checkpoint's configuration; it has no key data.nope"),
        (["data.batch_size=0"], "data.batch_size=0 is not a number of samples"),
    ],
)
def test_mistakes_in_one_line(arguments: list[str], words: str, checkpoint: str, commands: Commands) -> None:
    (commands.folder / "empty").mkdir()
    (commands.folder / "folder.csv").mkdir()
    (commands.folder / "semicolons.csv").write_text("1;2\n3;4\n")
    (commands.folder / "nothing.csv").touch()
    (commands.folder / "words.csv").write_text("a,b\n1,2\n1,two\n")
    (commands.folder / "ragged.csv").write_text("1,2\n1\n")
    (commands.folder / "narrow.csv").write_text("1,2\n3,4\n")
    (commands.folder / "broken.npy").write_bytes(b"\x93NUMPY nothing")
    np.savez(commands.folder / "several.npz", a=np.zeros(3), b=np.zeros(3))
    done = commands("predict", checkpoint, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert words in done.err


def test_a_table_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    """With a mark of its encoding at the beginning, which makes no heading of the first row."""
    (tmp_path / "marked.csv").write_text("\ufeff1,2\n3,4\n", encoding="utf-8")
    assert read_samples(tmp_path / "marked.csv", None).inputs.tolist() == [[1, 2], [3, 4]]


# ---- modules and data of one's own -----------------------------------------------------------------------


class Own(L.LightningModule):
    """Predicts in a way of its own."""

    def __init__(self, gives: Any) -> None:
        super().__init__()
        self.layer, self.gives = nn.Linear(3, 2), gives

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.gives(self.layer(batch[0]), batch[0])


class OwnData(L.LightningDataModule):
    """Knows its test only after `setup("test")`."""

    def setup(self, stage: str) -> None:
        self.stage = stage
        self.x = torch.arange(21.0).reshape(7, 3)

    def test_dataloader(self) -> Any:
        assert self.stage == "test"
        return DataLoader(TensorDataset(self.x, torch.zeros(7)), 4)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Predicts with a module of one's own, as if it lay in a checkpoint."""

    def run(model: Any, **options: Any) -> Any:
        flags: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        trainer = Trainer(**flags, enable_progress_bar=False, enable_model_summary=False)
        monkeypatch.setattr(predicting, "reopen", lambda *_: (trainer, model, OwnData()))
        return predicting.predict("a.ckpt", **options).columns

    return run


GIVES = {
    "a tensor": (lambda y, x: y, {"prediction_0", "prediction_1"}),
    "a column": (lambda y, x: y[:, 0], {"prediction"}),
    "a tuple": (lambda y, x: (y[:, :1], x), {"output_0", "output_1_0", "output_1_1", "output_1_2"}),
    "a dict, with a list of words": (
        lambda y, x: {"score": y.half(), "name": [f"n{int(v)}" for v in x[:, 0]]},
        {"score_0", "score_1", "name"},
    ),
}


@pytest.mark.parametrize("kind", GIVES)
def test_what_a_predict_step_of_ones_own_gives(kind: str, own: Any) -> None:
    gives, names = GIVES[kind]
    columns = own(Own(gives))
    assert set(columns) == {"index", *names}
    assert all(len(column) == 7 for column in columns.values())
    if "name" in columns:
        assert columns["name"].tolist() == [f"n{3 * i}" for i in range(7)]


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda y, x: y.mean(), "gives a scalar for prediction"),
        (lambda y, x: {"a": y, "b": y[:1]}, "parts of different lengths: a 7, b 2"),
        (lambda y, x: y.reshape(-1, 2, 1), r"prediction of shape \(7, 2, 1\)"),
        (lambda y, x: None, "gives nothing"),
        (lambda y, x: "words", "gives str"),
    ],
)
def test_what_makes_no_table(gives: Any, words: str, own: Any) -> None:
    with pytest.raises(InputError, match=f"Own.predict_step gives .*{words}|{words}"):
        own(Own(gives))


def test_who_cannot_predict(own: Any) -> None:
    with pytest.raises(InputError, match="LightningModule has no predict_step"):
        own(L.LightningModule())
    with pytest.raises(InputError, match="OwnData may shuffle"):
        own(Own(lambda y, x: y), split="train")
    with pytest.raises(InputError, match="OwnData has no val_dataloader"):
        own(Own(lambda y, x: y), split="val")


def test_class_weights_and_labels_that_do_not_count() -> None:
    """The loss over all samples is that of PyTorch over one batch of them."""
    torch.manual_seed(0)
    model = Classifier(3, network=nn.Linear(4, 3), optimizer=torch.optim.SGD, class_weights=[1, 2, 5], ignore_index=-1)
    x, y = torch.randn(20, 4), torch.randint(-1, 3, (20,))
    parts = joined([model.predict_step((x[:12], y[:12])), model.predict_step((x[12:], y[12:]))], "")
    loss = nn.functional.cross_entropy(model(x), y, torch.tensor([1.0, 2, 5]), ignore_index=-1)
    right = (model(x).argmax(dim=1) == y)[y != -1].float().mean()
    assert model.metrics_of(parts) == pytest.approx({"acc": float(right), "loss": float(loss)})  # pyright: ignore
    assert set(model.predict_step(x)) == {"prediction", "probability"}


def test_a_regressor() -> None:
    model = Regressor(network=nn.Linear(2, 1), optimizer=torch.optim.SGD)
    x, y = torch.randn(5, 2), torch.randn(5)
    found = model.predict_step((x, y))
    error = model(x)[:, 0] - y
    expected = {"loss": float((error**2).mean()), "mae": float(error.abs().mean())}
    assert model.metrics_of(found) == pytest.approx(expected)
    with pytest.raises(InputError, match="they must be equal"):
        model.predict_step((x, y[:3]))


def test_many_classes_and_a_narrow_terminal() -> None:
    torch.manual_seed(0)
    columns = columns_of({"prediction": torch.arange(3), "probability": torch.rand(3, 30).softmax(dim=1)}, "")
    assert [name for name in columns if name.startswith("top")] == [f"top_{i}" for i in range(1, 6)]
    assert all(len(line) <= 80 for line in head(columns).splitlines())


def test_a_table_with_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,label,b\n1,0,2\n3,1,4\n")
    samples = read_samples(tmp_path / "a.csv", lambda: None)
    assert samples.inputs.tolist() == [[1, 2], [3, 4]]
    assert samples.true is not None
    assert (samples.true.tolist(), samples.true.dtype) == ([0, 1], torch.int64)
    (tmp_path / "b.csv").write_text("1,0.5\n2,1.5\n")
    assert read_samples(tmp_path / "b.csv", lambda: None).inputs.tolist() == [[1, 0.5], [2, 1.5]]


def test_parquet(checkpoint: str, commands: Commands) -> None:
    done = commands("predict", checkpoint, "--out", "table.parquet")
    try:
        import pyarrow.parquet as parquet  # pyright: ignore
    except ImportError:
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "pip install pyarrow" in done.err
    else:
        assert parquet.read_table(commands.folder / "table.parquet").num_rows == 360


# ---- the notebook ----------------------------------------------------------------------------------------


def test_the_notebook_runs(trained: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (path,) = PROJECT.glob("src/*/notebooks/look.ipynb")
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "it is kept without what it shows"
    monkeypatch.chdir(trained.folder)
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    space: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    assert space["run"] == trained.run
    assert [len(figure.axes) for figure in map(plt.figure, plt.get_fignums())] == [2, 1, 10]
    assert space["counts"].sum() == 360
    plt.close("all")
