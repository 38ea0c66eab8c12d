"""A run that goes on from a checkpoint ends as if it had never been interrupted: weights, metrics, curves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import Commands
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = ("+experiment=digits", "model=mlp", "model.network.dropout=0.2", "data.batch_size=256", "trainer.max_epochs=3",
         "trainer.log_every_n_steps=1", "scheduler=constant")  # fmt: skip
EVERY_STEP = (
    "+callbacks.steps={_target_: metronome.training.Checkpoint, dirpath: '${run_dir}/checkpoints', filename: "
    "'{step}-step', every_n_train_steps: 1, save_top_k: -1}",
    "+callbacks.validations={_target_: metronome.training.Checkpoint, dirpath: '${run_dir}/checkpoints', filename: "
    "'{step}-validation', monitor: val/acc, mode: max, save_top_k: -1, save_on_train_epoch_end: false}",
    "+callbacks.stock={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: '${run_dir}/checkpoints', "
    "filename: '{step}-stock', every_n_train_steps: 2, save_top_k: -1}",
)
LIKE = ("status", "plan", "progress", "metrics", "best", "weights_sha256", "out_of_memory", "nonfinite")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point in the folder's event files, doubled ones too."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("watch/ms_")]  # each start has its own times
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def facts(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in LIKE}


INSIDE = ("trainer.val_check_interval=2", "trainer.accumulate_grad_batches=3", "scheduler=cosine")
GROWTH = ("data.batch_growth={factor: 2, every: 1 epochs, max: 1000}", "data.batch_size=128", "optimizer=adamw")


@pytest.mark.parametrize(
    ("options", "every"),
    [
        # those that take longest, and of which the others have a part, run with -m slow
        pytest.param((), 3, id="plain", marks=pytest.mark.slow),
        pytest.param(INSIDE, 7, id="some inside epochs"),
        pytest.param(INSIDE, 3, id="inside epochs", marks=pytest.mark.slow),
        pytest.param(GROWTH, 9, id="some of growth", marks=pytest.mark.slow),
        pytest.param(GROWTH, 3, id="growth", marks=pytest.mark.slow),
        pytest.param(
            (
                "trainer.max_epochs=-1",
                "trainer.max_steps=12",
                "trainer.check_val_every_n_epoch=2",
                "scheduler=onecycle",
            ),
            3,
            id="max_steps",
            marks=pytest.mark.slow,
        ),
        pytest.param(("data.num_workers=2", "budget=3000 samples"), 6, id="workers", marks=pytest.mark.slow),
    ],
)
def test_from_every_checkpoint(options: tuple[str, ...], every: int, commands: Commands) -> None:
    """In the folder of the run, which holds all that was written after the checkpoint too."""
    replaced = {option.split("=")[0] for option in options} | (
        {"trainer.max_epochs"} if "budget" in str(options) else set()
    )
    given = (*(option for option in SMALL if option.split("=")[0] not in replaced), *EVERY_STEP, *options)
    done = commands("train", *given, "hydra.run.dir=whole")
    assert done.code == 0, done.err + done.out
    whole = commands.folder / "whole"
    names = sorted(path.name for path in (whole / "checkpoints").glob("*-*.ckpt"))
    assert len(names) > 15
    chosen = names[::every]
    different = {}
    for name in chosen:
        shutil.copytree(whole, commands.folder / "again")
        done = commands("train", *given, f"ckpt_path=again/checkpoints/{name}", "hydra.run.dir=again")
        assert done.code == 0, done.err + done.out
        again = commands.folder / "again"
        for what, theirs, ours in (
            ("facts", facts(whole), facts(again)),
            ("curves", curves(whole), curves(again)),
        ):
            if theirs != ours:
                different[name, what] = {
                    key: (theirs[key], ours.get(key)) for key in theirs if theirs[key] != ours.get(key)
                }
        shutil.rmtree(again)
    assert not different, f"{len(different)} of {2 * len(chosen)}: {list(different.items())[:2]}"
