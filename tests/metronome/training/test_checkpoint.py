"""Checkpoints are whole or not there, whatever happens while they are written; their books survive a resume."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Data, fit, weights
from saving import FullDisk, checkpoint, step_of

from metronome.training import Checkpoint
from metronome.training.checkpoints.places import PART
from metronome.units import InputError, RunFailed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps an epoch; the saves after epochs 2 and 3 fail, that after epoch 4 works."""
    seen: list[tuple[int, float]] = []

    class Sees(FullDisk):
        def on_train_epoch_start(self) -> None:
            if self.trainer.global_step:
                seen.append((step_of(tmp_path / "last.ckpt"), float(save.best_model_score or 0)))

    save = checkpoint(tmp_path)
    whole, _ = fit()
    model, _ = fit(model=Sees(range(5, 15), monkeypatch), callbacks=[save], enable_checkpointing=True)
    assert torch.equal(weights(model), weights(whole))
    assert [step for step, _ in seen] == [5, 5, 5]
    assert {score for _, score in seen} == {model.val_losses[0]}
    assert step_of(tmp_path / "last.ckpt") == 20
    lines = [record.getMessage() for record in caplog.records if "could not be written" in record.getMessage()]
    assert len(lines) == 2
    assert all("No space left on device" in line and "\n" not in line for line in lines)
    assert not list(tmp_path.glob(f"*{PART}"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_stays_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails in one line at its end; what was saved before is whole and can be gone on from."""
    whole, _ = fit()
    with pytest.raises(
        RunFailed, match=r"could not be written .No space left on device.; what was there before is whole"
    ):
        fit(model=FullDisk(range(5, 100), monkeypatch), callbacks=[checkpoint(tmp_path)], enable_checkpointing=True)
    assert step_of(tmp_path / "last.ckpt") == step_of(tmp_path / "best.ckpt") == 5
    again, _ = fit(checkpoint=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(again), weights(whole))


def test_nothing_is_overwritten_before_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each rename the new file is whole on the disk, and the old one has been readable all the while."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def look(kind: str) -> None:
        order.append(kind)
        if (old := tmp_path / "last.ckpt").exists():
            step_of(old)

    monkeypatch.setattr(os, "fsync", lambda fd: (look("sync"), fsync(fd))[1])

    def renamed(source: Any, target: Any) -> None:
        look("rename")
        assert str(source).endswith(PART)
        step_of(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    fit(callbacks=[checkpoint(tmp_path)], enable_checkpointing=True, max_epochs=2)
    assert order[:3] == ["sync", "rename", "sync"]  # the file, its name, the folder
    assert order.count("rename") >= 3


@pytest.mark.parametrize(
    ("every", "steps"),
    [("3 steps", [3, 5, 8, 10, 13]), ("64 samples", [2, 4, 5, 7, 9, 10, 12, 13]), ("2 epochs", [5, 10, 13])],
)
@pytest.mark.parametrize("options", [{}, {"devices": 2, "strategy": "ddp_fork"}])
def test_save_last_every(every: str, steps: list[int], options: dict[str, Any], tmp_path: Path) -> None:
    """2 epochs and a half of 5 steps, each of which is saved at its end, without validation."""

    class Counts(Checkpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            if trainer.is_global_zero:
                with (tmp_path / "saved.txt").open("a") as saved:
                    saved.write(f"{step_of(Path(filepath))} ")

    save = Counts(tmp_path, save_last=True, save_top_k=0, save_last_every=every, enable_version_counter=False)
    fit(callbacks=[save], enable_checkpointing=True, limit_val_batches=0, max_epochs=-1, max_steps=13, **options)
    assert [int(step) for step in (tmp_path / "saved.txt").read_text().split()] == steps


@pytest.mark.parametrize("every", ["0 steps", "10%", "soon"])
def test_an_interval_that_is_none(every: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        checkpoint(tmp_path, save_last_every=every)


def test_the_last_step_is_always_saved(tmp_path: Path) -> None:
    """Validated every third epoch only, and saved there."""
    fit(callbacks=[checkpoint(tmp_path)], enable_checkpointing=True, check_val_every_n_epoch=3, max_epochs=5)
    assert step_of(tmp_path / "last.ckpt") == 25


@pytest.mark.parametrize("moved", [False, True])
def test_the_best_ones_survive_a_resume(moved: bool, tmp_path: Path) -> None:
    def save(folder: Path) -> Checkpoint:
        return Checkpoint(folder, "{step}", monitor="val/loss", mode="max", save_top_k=2, save_last=True)

    whole, cut, again = save(tmp_path / "whole"), save(tmp_path / "cut"), save(tmp_path / ("moved" if moved else "cut"))
    fit(callbacks=[whole], enable_checkpointing=True)
    fit(callbacks=[cut], enable_checkpointing=True, max_epochs=2)
    if moved:
        (tmp_path / "cut").rename(tmp_path / "moved")
    last = Path(again.dirpath or "") / "last.ckpt"  # pyright: ignore
    fit(callbacks=[again], enable_checkpointing=True, checkpoint=str(last))

    def books(callback: Checkpoint) -> Any:
        best = {Path(path).name: float(score) for path, score in callback.best_k_models.items()}
        return (
            best,
            Path(callback.best_model_path).name,
            float(callback.best_model_score or 0),
            callback.kth_value.item(),
        )

    assert books(again) == books(whole)
    names = [sorted(path.name for path in Path(c.dirpath or "").iterdir()) for c in (again, whole)]  # pyright: ignore
    assert names[0] == names[1]


def test_another_order_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    fit(callbacks=[checkpoint(tmp_path)], enable_checkpointing=True, max_epochs=-1, max_steps=7)
    last = str(tmp_path / "last.ckpt")
    with pytest.raises(
        InputError, match="in the middle of an epoch with batch_size=32, and this run has batch_size=16"
    ):
        fit(data=Data(batch_size=16), checkpoint=last)
    with pytest.raises(InputError, match="with num_samples=157, and this run has num_samples=129"):
        fit(data=Data(129, batch_size=32), checkpoint=last)
    with pytest.raises(InputError, match="with seed=7, and this run has seed=8"):
        fit(checkpoint=last, seed=8)
    with pytest.raises(InputError, match="with shuffle=True"):
        fit(data=Data(batch_size=32, shuffle=False), checkpoint=last)


def test_another_batch_size_from_the_end_of_an_epoch(tmp_path: Path) -> None:
    fit(callbacks=[checkpoint(tmp_path)], enable_checkpointing=True, max_epochs=2)
    _, run = fit(data=Data(batch_size=16), checkpoint=str(tmp_path / "last.ckpt"))
    assert run.counters.samples == 4 * 157
    assert run.global_step == 2 * 5 + 2 * 10


def test_a_save_after_forked_processes_have_ended(tmp_path: Path) -> None:
    """In the process that started them, which has the weights and no other device."""
    model, run = fit(max_epochs=1, devices=2, strategy="ddp_fork")
    run.save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_the_best_of_the_run_before_is_known_in_a_new_folder(tmp_path: Path) -> None:
    """It stays where it is, and counts until there is a better one."""
    before, new = tmp_path / "before", tmp_path / "new"
    fit(max_epochs=2, callbacks=[Checkpoint(before, "best", monitor="val/loss")], enable_checkpointing=True)
    (best,) = before.glob("best*.ckpt")
    state = Checkpoint(before, "best", monitor="val/loss").state_dict() | {
        "best_model_path": str(best), "best_model_score": torch.tensor(0.0),
        "best_k_models": {str(best): torch.tensor(0.0)},
        "kth_best_model_path": str(best), "kth_value": torch.tensor(0.0),
    }  # fmt: skip
    again = Checkpoint(new, "best", monitor="val/loss")
    again.load_state_dict(state)
    fit(max_epochs=1, callbacks=[again], enable_checkpointing=True)
    assert (again.best_model_path, again.best_model_score) == (str(best), torch.tensor(0.0))
    assert best.is_file()
