"""Layers watched: norms against ones worked by hand, faults that are said and those that are none, and a table."""

from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from metronome.insight import DeviceStats, LayerWatch
from metronome.insight.layers.faults import Faults
from metronome.insight.model_table import table
from metronome.units import InputError


class Keeps(Callback):
    """By step, the norms of gradient, weights before and update."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        row = {}
        for name, p in pl_module.named_parameters():
            before = self.before[name]
            row[f"watch_gradient/{name}"] = float(p.grad.norm())
            row[f"watch_weight/{name}"] = float(before.norm())
            row[f"watch_update/{name}"] = float((p.detach() - before).norm() / before.norm())
        self.found.append(row)


class Rows(CSVLogger):
    """What was logged, by step."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.rows.setdefault(step, {}).update(metrics)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_norms(tmp_path: Path, accumulate: int) -> None:
    plain, _ = jobs.fit(max_epochs=1, accumulate_grad_batches=accumulate)
    watched, _ = jobs.fit(
        max_epochs=1, accumulate_grad_batches=accumulate, log_every_n_steps=2, logger=(rows := Rows(tmp_path)),
        callbacks=[LayerWatch(), keeps := Keeps()],
    )  # fmt: skip
    assert torch.equal(jobs.weights(plain), jobs.weights(watched))
    for step in (1, 3):
        found = {name: value for name, value in rows.rows[step].items() if name.startswith("watch_")}
        assert found == pytest.approx(keeps.found[step], rel=1e-12)


class Faulty(jobs.Net):
    """With units that never wake up, and a part that is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.net[1] = nn.ReLU()  # pyright: ignore
        self.unused = nn.Linear(3, 3).double()
        with torch.no_grad():
            self.net[0].bias[:12] = -100.0  # pyright: ignore

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + 0 * self.unused.weight.sum()


def test_faults_are_said_once_also_over_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def train(path: str | None = None) -> list[str]:
        save = ModelCheckpoint(tmp_path / "saved", "{step}", every_n_train_steps=3, save_top_k=-1)
        caplog.clear()
        with caplog.at_level("WARNING", "metronome.layers"):
            jobs.fit(
                model=Faulty(), log_every_n_steps=1, logger=Rows(tmp_path), callbacks=[LayerWatch(), save],
                max_epochs=2, enable_checkpointing=True, checkpoint=path,
            )  # fmt: skip
        return caplog.messages

    said = train()
    assert [line.split(":")[0] for line in said] == [
        "no gradient has come to unused.weight at 5 log points, up to step 5",
        "12 of 16 units of net.0.weight are dead",
    ]
    assert train(str(tmp_path / "saved/step=3.ckpt")) == said, "counted across the checkpoint"
    assert train(str(tmp_path / "saved/step=6.ckpt")) == []


@pytest.mark.parametrize(
    ("gradient", "last", "line"),
    [
        ((1.0, 1.0), (1.0, 1.0), None),
        ((1.0, 1.0), (90.0, 1.0), None),
        ((1.0, 1.0), (200.0, 1.0), "step 12: the gradient explodes: 2e+02, 1.4 before"),
        ((1.0, 1e-3), (1.0, 1e-3), None),
        ((1.0, 1e-5), (1.0, 1e-5), "the gradient of b vanishes: by its weights 1.0e-05, up to 1.0e+00 in others"),
    ],
)
def test_what_norms_speak_for(gradient: tuple[float, float], last: tuple[float, float], line: str | None) -> None:
    faults, said = Faults(), []
    for step in range(1, 13):
        values = gradient if step < 12 else last
        said += faults.at(step, dict(zip("ab", values, strict=True)), {"a": 1.0, "b": 1.0}, {"a": (0, 4), "b": (0, 4)})
    assert [text.split(";")[0].split(", at 5")[0] for text in said] == ([] if line is None else [line])


def test_the_table_of_a_network_fits_a_terminal() -> None:
    lines = table(jobs.Net(), 2, {"net.0": "32 x 16"})
    assert lines[0].split() == ["part", "class", "parameters", "gives"]
    assert lines[2].split() == ["net.0", "Linear", "176", "32", "x", "16"]
    assert lines[-1] == "193 parameters are trained; 1.54 kB"
    deep: Any = jobs.Net()
    deep.a_part_with_a_name_that_is_rather_long = nn.ModuleDict(
        {"another_one_that_is_no_shorter_at_all": nn.Linear(3, 3)}
    )
    assert max(map(len, table(deep, -1, {}))) < 80


def test_without_a_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from metronome.insight.rich_progress import RichProgress

    for name, kind in (("psutil", DeviceStats), ("rich.progress", RichProgress)):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(InputError, match=r"pip install -e '\.\[callbacks\]'"):
            kind()


def test_device_stats(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    jobs.fit(max_epochs=1, log_every_n_steps=1, logger=(rows := Rows(tmp_path)), callbacks=[DeviceStats()])
    assert rows.rows[1]["watch/memory_gb"] > 0.01
    assert {"watch/cpu_percent", "watch/machine_cpu_percent", "watch/machine_memory_percent"} <= set(rows.rows[1])


def test_the_bar_of_rich(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("rich")
    from metronome.insight.rich_progress import RichProgress

    plain, _ = jobs.fit(max_epochs=2)
    model, _ = jobs.fit(max_epochs=2, callbacks=[RichProgress()], enable_progress_bar=True)
    out = capsys.readouterr().out
    assert "epoch 1/2  step 5" in out
    assert "epoch 2/2  step 10" in out
    assert torch.equal(jobs.weights(plain), jobs.weights(model))
