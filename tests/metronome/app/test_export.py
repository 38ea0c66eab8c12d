"""A checkpoint as a program that runs where this library is not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from commands import Commands
from torch import Tensor, nn

import metronome
from metronome.app import export as exporting
from metronome.data import DataModule, Splits
from metronome.models import Classifier
from metronome.training import Trainer
from metronome.units import InputError

# In a process without this library: what the program makes of the inputs in a file.
_APART = """
import sys
sys.modules["metronome"] = sys.modules["lightning"] = None  # no import of them
import torch
inputs, outputs, program = sys.argv[1:]
if program.endswith(".pt2"):
    found = torch.export.load(program).module()(torch.load(inputs))
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"inputs": torch.load(inputs).numpy()})[0])
torch.save(found, outputs)
"""


class Points(DataModule):
    def load(self) -> Splits:
        x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        return Splits(train=(x, (x.sum(1) > 0).long()), test=(x, (x.sum(1) > 0).long()))


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Exports a module as if it lay in a checkpoint."""

    def run(model: Any, file: str, data: Any = None) -> Any:
        flags: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        trainer = Trainer(**flags, enable_progress_bar=False, enable_model_summary=False)
        monkeypatch.setattr(exporting, "reopen", lambda *_: (trainer, model, data or Points(batch_size=8)))
        return exporting.export("a.ckpt", tmp_path / file)

    return run


@pytest.mark.slow  # the first export of a process takes two seconds
def test_a_program_gives_the_numbers_of_the_module(export: Any, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model = Classifier(2, network=network, optimizer=torch.optim.SGD)
    done = export(model, "deep/model.pt2")
    assert (done.inputs, done.outputs, done.samples) == ([(None, 6)], [(None, 2)], [8, 5])
    program = torch.export.load(tmp_path / "deep/model.pt2").module()
    for size in (1, 2, 33):
        x = torch.randn(size, 6)
        torch.testing.assert_close(program(x), network.eval()(x))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt2"]


def test_a_program_that_gives_other_numbers_is_not_written(
    export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Classifier(2, network=nn.Linear(6, 2), optimizer=torch.optim.SGD)
    save = exporting._save
    monkeypatch.setattr(exporting, "_save", lambda *given: lambda batch: [2 * tensor for tensor in save(*given)(batch)])
    with pytest.raises(InputError, match="gives other numbers than Classifier: they differ by"):
        export(model, "model.pt2")
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] if x.sum() > 0 else -x[:, :2]


class Silent(L.LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_what_cannot_be_exported(export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branching = Classifier(2, network=Branches(), optimizer=lambda parameters: None)  # pyright: ignore
    with pytest.raises(InputError, match="Classifier cannot be exported for batches of any size: ") as told:
        export(branching, "model.pt2")
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="Silent does not call its forward in a test"):
        export(Silent(), "model.pt2")
    with pytest.raises(InputError, match=r"use .pt2 or .onnx"):
        export(Silent(), "model.pth")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"is not there: pip install -e '.\[export\]'"):
        export(Silent(), "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
@pytest.mark.parametrize("experiment", ["digits", "text"])
def test_in_a_process_without_this_library(kind: str, experiment: str, commands: Commands) -> None:
    if kind == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    job = ("trainer=cpu", "trainer.max_steps=2", "trainer.max_epochs=-1", "logger=none", "test=false")
    trained = commands("train", f"+experiment={experiment}", *job)
    assert trained.code == 0, trained.err
    checkpoint = trained.run / "checkpoints/last.ckpt"
    done = commands("export", str(checkpoint), "--to", f"model.{kind}", "data.eval_batch_size=6")
    assert done.code == 0, done.err
    assert "compared   batches of 6 and 4: at most " in done.out
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    model: Any = metronome.load(checkpoint)
    inputs = torch.rand(11, 1, 8, 8) if experiment == "digits" else torch.randint(0, 100, (11, 23))
    torch.save(inputs, commands.folder / "inputs.pt")
    command = [sys.executable, "-c", _APART, "inputs.pt", "outputs.pt", f"model.{kind}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, cwd=commands.folder, check=True, env=environment)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.load(commands.folder / "outputs.pt"), model.network(inputs), rtol=1e-4, atol=1e-5
        )
