"""The monitored metric knows its direction, whoever watches it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import Commands, Done

from metronome.report.records import read_runs

SMALL = ("+experiment=digits", "trainer=cpu", "model=mlp", "model.network.hidden=[8]", "data.batch_size=256")
DIES = '''
from lightning.pytorch.callbacks import Callback

from metronome.units import RunFailed


class Dies(Callback):
    """Before the step after this one."""

    def __init__(self, after):
        self.after = after

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.after:
            raise RunFailed("it died")
'''
# A rate that is much too large: the accuracy goes up and down.
WILD = (*SMALL, "optimizer.lr=1.5", "optimizer.momentum=0", "trainer.max_epochs=8", "trainer.on_nonfinite=ignore")


def accuracies(run: Path) -> dict[int, float]:
    """By the steps done."""
    rows = list(csv.DictReader(next(run.rglob("metrics.csv")).read_text().splitlines()))
    return {int(row["step"]) + 1: float(row["val/acc"]) for row in rows if row["val/acc"]}


@pytest.mark.parametrize(
    ("options", "of_plateau"),
    [
        (("callbacks.checkpoint.monitor=val/acc",), ("val/loss", None)),
        pytest.param(("monitor=val/acc",), ("val/acc", None), marks=pytest.mark.slow),
        pytest.param(("monitor=val/acc", "mode=max"), ("val/acc", "max"), marks=pytest.mark.slow),
    ],
)
def test_what_is_typed_alone_keeps_the_best(
    options: tuple[str, ...], of_plateau: tuple[str, str | None], commands: Commands
) -> None:
    """So do Lightning's own callbacks that are named without a mode."""
    stock = "lightning.pytorch.callbacks"
    done = commands(
        "train", *WILD, "logger=csv", "scheduler=plateau", *options,
        f"+callbacks.mine={{_target_: {stock}.ModelCheckpoint, dirpath: mine, filename: '{{step}}', monitor: val/acc}}",
        f"+callbacks.stop={{_target_: {stock}.EarlyStopping, monitor: val/acc, patience: 100, min_delta: 0.01}}",
    )  # fmt: skip
    assert done.code == 0, done.err
    found, best = accuracies(done.run), done.result["best"]
    top = max(found.values())
    assert min(found.values()) < top - 0.05
    assert (best["monitor"], best["mode"], best["value"]) == ("val/acc", "max", pytest.approx(top))
    assert found[best["step"]] == top
    (kept,) = (commands.folder / "mine").glob("*.ckpt")
    assert kept.name == f"step={best['step']}.ckpt"
    assert "mode=" not in done.out
    (record,) = read_runs([done.run])[0]
    assert (record.monitor, record.best_is_low) == ("val/acc", False)
    assert done.result["stopped_early"] is None
    scheduler = record.config["scheduler"]
    assert (scheduler["monitor"], scheduler["mode"]) == of_plateau


def ended(done: Done) -> dict[str, Any]:
    kept = ("status", "stopped_early", "best", "progress", "metrics", "weights_sha256")
    return {name: done.result[name] for name in kept}


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val/acc", "val/loss"])
def test_one_that_is_killed_while_it_waits_stops_at_the_same_step(
    monitor: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the epochs after the best one, in mid-epoch."""
    (tmp_path / "dies.py").write_text(DIES)
    monkeypatch.syspath_prepend(tmp_path)
    job = (
        *WILD, "trainer.max_epochs=40", "logger=none", "callbacks=[default,early_stopping]", f"monitor={monitor}",
        "callbacks.early_stopping.patience=4", "callbacks.checkpoint.save_last_every=1step",
    )  # fmt: skip
    whole = ended(commands("train", *job))
    steps, best = whole["progress"]["steps"], whole["best"]["step"]
    assert whole["status"] == "finished"
    assert steps == best + 4 * 5  # steps an epoch
    assert whole["stopped_early"].startswith(f"no better {monitor} for 4 validations; best ")
    for after in (best + 2, best + 13, steps - 1):
        commands.folder = tmp_path / str(after)
        commands.folder.mkdir()
        died = commands("train", *job, f"+callbacks.dies={{_target_: dies.Dies, after: {after}}}")
        assert (died.code, died.result["status"]) == (1, "failed")
        done = commands("train", *job, "ckpt_path=last")
        assert done.code == 0, done.err
        assert f"stopped early: {whole['stopped_early']}" in done.out
        assert ended(done) == whole
        assert json.loads((done.run / "result.json").read_text())["resumed_from"]["step"] == after
