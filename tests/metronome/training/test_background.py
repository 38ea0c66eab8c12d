"""Checkpoints written while the training goes on: the same bytes, the same books, nothing older gone too early."""

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Net, fit, weights
from saving import FullDisk, checkpoint, step_of

from metronome.training import Checkpoint
from metronome.training.checkpoints import files
from metronome.training.checkpoints.copies import Copies, Memory
from metronome.units import InputError, RunFailed


class Held:
    """Lets no thread write until a later step, or the end of the training, lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.by, write = threading.Event(), [], files.written_aside

        @contextmanager
        def written_aside(path: Path, *arguments: Any) -> Any:
            self.by.append((path.name, threading.current_thread() is threading.main_thread()))
            if threading.current_thread() is not threading.main_thread():
                assert self.gate.wait(60), "the training has waited"
            with write(path, *arguments) as file:
                yield file

        monkeypatch.setattr(files, "written_aside", written_aside)


class Releases(Net):
    """Looks at what is in the folder while it is held in the third step of an epoch, and lets it be written then."""

    def __init__(self, held: Held, folder: Path) -> None:
        super().__init__()
        self.held, self.folder, self.seen = held, folder, []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            self.seen.append(sorted(path.name for path in self.folder.glob("*.ckpt")))
            self.held.gate.set()
        if batch_idx == 3:
            save: Any = self.trainer.checkpoint_callback
            if save.beside.pending is not None:
                save.beside.pending.wait()
            self.held.gate.clear()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/acc", float(self.current_epoch))

    def on_validation_epoch_end(self) -> None: ...


class AtTheEnd(L.Callback):
    """Lets what is saved at the last step be written."""

    def __init__(self, held: Held) -> None:
        self.held = held

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 20:
            self.held.gate.set()


def names(callback: Checkpoint) -> Any:
    return {Path(path).name: float(score) for path, score in callback.best_k_models.items()}


def test_the_same_files_as_if_they_were_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = {}
    monkeypatch.chdir(tmp_path)
    for background in (False, True):
        # In a folder of the same name, which is in the files.
        saves[background] = save = Checkpoint(
            "here", "{step}", monitor="val/loss", mode="max", save_top_k=2, save_last=True, background=background
        )
        model, _ = fit(callbacks=[save], enable_checkpointing=True)
        Path("here").rename(f"{background}")
    assert names(saves[True]) == names(saves[False])
    written = [{path.name: path.read_bytes() for path in Path(f"{b}").iterdir()} for b in (False, True)]
    assert len(written[0]) == 3
    assert written[0] == written[1]
    again, _ = fit(checkpoint="True/step=10.ckpt")
    assert torch.equal(weights(again), weights(model))


def test_the_training_goes_on_and_nothing_older_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps an epoch; what is saved at an epoch's end is written when the third step of the next one has begun."""
    held = Held(monkeypatch)
    model = Releases(held, tmp_path)
    save = Checkpoint(
        tmp_path, "{step}", monitor="val/acc", save_last=True, background=True, enable_version_counter=False
    )
    fit(model=model, callbacks=[save, AtTheEnd(held)], enable_checkpointing=True)
    assert held.by[:2] == [("step=5.ckpt", True), ("last.ckpt", True)]  # the first are written at once
    assert ("step=10.ckpt", False) in held.by
    assert model.seen == [[]] + [["last.ckpt", name] for name in ("step=5.ckpt", "step=5.ckpt", "step=10.ckpt")]
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt", "step=20.ckpt"]
    assert step_of(tmp_path / "last.ckpt") == 20


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saves after epochs 2 and 3 fail while the next epochs are trained; that after epoch 4 works."""
    whole, _ = fit()
    save = checkpoint(tmp_path, save_last_every="5 steps", background=True)
    seen: list[int] = []

    class Sees(FullDisk):
        def on_validation_start(self) -> None:
            seen.append(step_of(tmp_path / "last.ckpt") if self.trainer.global_step > 5 else 0)

    model = Sees(range(5, 15), monkeypatch)
    monkeypatch.setattr(FullDisk, "on_train_batch_start", lambda *_: None)
    monkeypatch.setattr(FullDisk, "on_train_batch_end", at_steps(model.steps), raising=False)
    fit(model=model, callbacks=[save], enable_checkpointing=True)
    assert torch.equal(weights(model), weights(whole))
    lines = [record.getMessage() for record in caplog.records if "could not be written" in record.getMessage()]
    assert len(lines) == 2, lines
    assert all("the training goes on, and saves the next time" in line for line in lines)
    assert seen == [0, 5, 5, 5]
    assert step_of(tmp_path / "last.ckpt") == 20
    assert save.best_model_score == min(model.val_losses)


def at_steps(steps: range) -> Any:
    def full(self: Any, *_: Any) -> None:
        self.is_full = self.trainer.global_step - 1 in steps

    return full


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_stays_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails at its end, as it does without; the books are those of what is there."""
    save = checkpoint(tmp_path, background=True)
    with pytest.raises(RunFailed, match=r"could not be written .No space left on device"):
        fit(model=FullDisk(range(5, 100), monkeypatch), callbacks=[save], enable_checkpointing=True)
    assert step_of(tmp_path / "last.ckpt") == step_of(tmp_path / "best.ckpt") == 5
    assert save._last_global_step_saved == 5


def test_an_error_in_a_step_waits_for_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)

    class Fails(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 13:
                held.gate.set()
                raise ValueError("of the user's")

        def on_train_epoch_start(self) -> None:
            if self.trainer.global_step < 10:
                held.gate.set()
            else:
                held.gate.clear()

    with pytest.raises(ValueError, match="of the user's"):
        fit(model=Fails(), callbacks=[checkpoint(tmp_path, background=True)], enable_checkpointing=True)
    assert step_of(tmp_path / "last.ckpt") == 10
    assert not list(tmp_path.glob("*.part"))


def test_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="save_last=true or false only"):
        Checkpoint(tmp_path, save_last="link", background=True)


def test_a_copy_is_as_it_was_then() -> None:
    weight = torch.arange(6.0)
    content = {"a": weight[:2], "b": weight, "n": [1], "p": torch.nn.Parameter(weight.clone())}
    copies = Copies(Memory())
    first, _ = copies.of(content)
    again, _ = copies.of({"a": weight.detach()})
    assert again["a"].untyped_storage().data_ptr() == first["b"].untyped_storage().data_ptr()  # once
    weight.mul_(0)
    content["n"].append(2)
    later, _ = copies.of({"a": weight})
    assert torch.equal(first["b"], torch.arange(6.0))
    assert first["a"].untyped_storage().data_ptr() == first["b"].untyped_storage().data_ptr()
    assert first["n"] == [1]
    assert torch.equal(later["a"], weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_from_a_gpu() -> None:
    """While work that was asked for before is still in the queue, and what comes after changes the weights."""
    weight = torch.zeros(1 << 22, device="cuda")
    busy = torch.randn(2_000, 2_000, device="cuda")
    for _ in range(50):
        busy = busy @ busy / busy.norm()
    weight += 1
    copied, arrive = Copies(Memory()).of({"all": weight, "part": weight[5:9], "p": torch.nn.Parameter(weight)})
    weight += 1
    arrive()
    assert copied["all"].is_pinned()
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in copied.values())
    assert copied["part"].untyped_storage().data_ptr() == copied["all"].untyped_storage().data_ptr()
    assert float(weight[0]) == 2


def test_memory_is_used_again() -> None:
    memory, weight = Memory(), torch.arange(6.0)
    places = []
    for _ in range(2):
        copied, _ = Copies(memory).of({"a": weight, "b": torch.tensor(1)})
        places.append({name: tensor.data_ptr() for name, tensor in copied.items()})
        memory.turn_over()
    assert places[0] == places[1]
    taken = Copies(memory).of([weight, weight + 1])[0]  # two at once are two
    assert torch.equal(taken[1], taken[0] + 1)
