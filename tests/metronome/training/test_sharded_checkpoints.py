"""Checkpoints of sharded weights: whole or not there, read on any number of processes, and as ordinary ones."""

import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_up import checkpoint, cut, network, optimizer, same, train, whole
from ranks import alone, on_ranks

from metronome.app.load import read_whole
from metronome.app.run.checkpoints import check_goes_on, check_whole, newest_whole, read_checkpoint
from metronome.training.checkpoints.background import Group
from metronome.training.checkpoints.copies import Memory
from metronome.training.checkpoints.files import CheckpointFiles
from metronome.training.checkpoints.places import PART, discard, put_back, put_in_place
from metronome.training.checkpoints.sharded.folder import MARKER, PLAIN, is_sharded
from metronome.training.checkpoints.sharded.read import consolidate
from metronome.training.checkpoints.sharded.restore import restore
from metronome.training.checkpoints.sharded.states import by_index, by_name, names_in
from metronome.training.checkpoints.sharded.write import write
from metronome.units import InputError


def write_one(path: Path, steps: int, *mesh: int) -> None:
    """The checkpoint after so many steps, by these processes."""
    made = cut(network(), *mesh)
    by = optimizer(made)
    train(made, by, range(steps))
    write(checkpoint(made, by, steps), path)


@pytest.fixture
def one() -> Iterator[None]:
    with alone():
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with those of two and of one step, last.ckpt and best.ckpt."""
    folder = tmp_path_factory.mktemp("written")
    with alone():
        write_one(folder / "last.ckpt", 2, 1)
        write_one(folder / "best.ckpt", 1, 1)
    return folder


def trained(steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    made = network()
    by = optimizer(made)
    train(made, by, range(steps))
    return made.state_dict(), by.state_dict()


def test_it_is_read_as_an_ordinary_one(tmp_path: Path, one: None) -> None:
    path = tmp_path / "last.ckpt"
    write_one(path, 3, 1)
    weights, states = trained(3)
    found = read_checkpoint(path)
    assert same(found["state_dict"], dict(weights))
    assert same(found["optimizer_states"], [states])
    assert (found["global_step"], found["extra"]) == (3, [1, (2.5, "a")])
    check_goes_on(found, path)
    check_whole(path)
    assert newest_whole([path]) == path
    # A file of it is an ordinary checkpoint, and weights are read without the optimizer's states.
    CheckpointFiles().save_checkpoint(found, tmp_path / "file.ckpt")
    assert same(torch.load(tmp_path / "file.ckpt", weights_only=True), found)
    assert same(CheckpointFiles().load_checkpoint(path), found)
    only = read_whole(path)
    assert same(only["state_dict"], found["state_dict"])
    assert only["optimizer_states"][0]["state"][0]["exp_avg"].is_meta
    assert {name: value.shape for name, value in read_checkpoint(path, parts=())["state_dict"].items()} == {
        name: value.shape for name, value in weights.items()
    }


def test_sharded_weights_go_on_from_a_folder_and_from_a_file(tmp_path: Path, one: None) -> None:
    """Bit for bit: the next steps are those of a training that was not cut off."""
    write_one(tmp_path / "last.ckpt", 3, 1)
    torch.save(consolidate(tmp_path / "last.ckpt"), tmp_path / "file.ckpt")
    for name in ("last.ckpt", "file.ckpt"):
        made = cut(network(seed=9), 1)
        by = optimizer(made)
        assert restore(tmp_path / name, made, [by])["global_step"] == 3
        train(made, by, range(3, 5))
        assert same(whole(made, by), (dict(trained(5)[0]), trained(5)[1]["state"]))
    weights = cut(network(seed=9), 1)
    restore(tmp_path / "last.ckpt", weights, [])
    assert same(whole(weights, optimizer(weights))[0], dict(trained(3)[0]))


def test_states_by_number_and_by_name() -> None:
    _, by_number = trained(2)
    names = [f"weight{number}" for number in names_in(by_number)]
    assert names_in(by_name(by_number, names)) == names
    assert same(by_index(by_name(by_number, names)), by_number)
    assert same(by_index(by_number), by_number)


def test_what_does_not_fit(tmp_path: Path, one: None) -> None:
    path = tmp_path / "last.ckpt"
    write_one(path, 1, 1)
    made = cut(network(), 1)
    with pytest.raises(InputError, match="has 8 weights, and this one 7"):
        restore(path, made, [torch.optim.SGD(list(made.parameters())[1:])])
    with pytest.raises(InputError, match="the states of 1 optimizers, and this training 2"):
        restore(path, made, [optimizer(made), optimizer(made)])
    other = network()
    other.first = torch.nn.Linear(5, 7).double()
    with pytest.raises(InputError, match=r"first.weight has shape \(6, 5\) there and \(7, 5\) here"):
        restore(path, cut(other, 1), [])


@pytest.mark.parametrize("name", ["__0_0.distcp", PLAIN, ".metadata", MARKER])
@pytest.mark.parametrize("damage", ["bit", "gone"])
def test_damage_is_told(name: str, damage: str, tmp_path: Path, written: Path) -> None:
    path, older = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    file = path / name
    content = bytearray(file.read_bytes())
    content[content.index(b'"crc32": ') + 9 if name == MARKER else len(content) // 2] ^= 1
    file.unlink()
    if damage == "bit":
        file.write_bytes(content)
    if (name, damage) == (MARKER, "gone"):
        assert not is_sharded(path)
    else:
        with pytest.raises(InputError, match=f"damaged.* {name}" if name != MARKER else "damaged"):
            check_whole(path)
    assert newest_whole([path, older]) == older


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("name", [PLAIN, ".metadata", "__0_0.distcp"])
def test_no_code_in_it_is_run(name: str, tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if name == ".metadata":
        (path / name).write_bytes(pickle.dumps(Harm()))
    else:
        torch.save(Harm(), path / name)
    with pytest.raises(InputError, match=r"last\.ckpt"):
        read_checkpoint(path)
    assert not Path("harmed").exists()


def test_a_folder_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()
    with pytest.raises(InputError, match="is a folder of another kind; give the path of one such as"):
        read_checkpoint(tmp_path / "last.ckpt")


# ---- whole or not there ---------------------------------------------------------------------------------


def test_a_whole_one_is_there_at_any_moment(
    tmp_path: Path, written: Path, one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename, and each removal, finds a checkpoint of the last step or of the one before."""
    path, seen = tmp_path / "last.ckpt", []
    shutil.copytree(written / "best.ckpt", path)
    rename, rmtree = Path.rename, shutil.rmtree

    def look() -> None:
        found = [at for at in tmp_path.glob("*.ckpt") if is_sharded(at)]
        for at in found:
            check_whole(at)
        seen.append({read_checkpoint(at, parts=())["global_step"] for at in found})

    monkeypatch.setattr(Path, "rename", lambda *a: (look(), rename(*a), look())[1])
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **b: (look(), rmtree(*a, **b), look())[1])
    write_one(path, 2, 1)
    assert all(seen)
    assert {1} in seen
    assert seen[-1] == {2}
    assert [at.name for at in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_kill_between_two_moves_is_mended(
    tmp_path: Path, written: Path, one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    shutil.copytree(written / "best.ckpt", path)
    rename = Path.rename

    class Killed(BaseException): ...

    def dies(self: Path, target: Path) -> Path:
        if self.name.endswith(PART):
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(Killed):
        write_one(path, 2, 1)
    monkeypatch.undo()
    assert not path.exists()
    assert newest_whole(list(tmp_path.glob("*.ckpt"))) is not None
    put_back(tmp_path)
    assert read_checkpoint(path)["global_step"] == 1
    write_one(path, 3, 1)
    assert read_checkpoint(path)["global_step"] == 3


def test_a_file_takes_the_place_of_a_folder_and_back(tmp_path: Path, one: None) -> None:
    """A run that goes on with another layout keeps the names of its checkpoints."""
    path = tmp_path / "last.ckpt"
    write_one(path, 1, 1)
    CheckpointFiles().save_checkpoint({"state_dict": {}, "global_step": 2}, path)
    assert read_checkpoint(path)["global_step"] == 2
    write_one(path, 3, 1)
    assert read_checkpoint(path)["global_step"] == 3
    CheckpointFiles().remove_checkpoint(path)
    assert not list(tmp_path.iterdir())
    put_back(tmp_path)


def test_places_of_plain_files(tmp_path: Path) -> None:
    old, new = tmp_path / "last.ckpt", tmp_path / f"last.ckpt{PART}"
    old.write_text("old")
    new.write_text("new")
    put_in_place(new, old)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert old.read_text() == "new"
    discard(old)
    discard(old)


# ---- several processes: slow ------------------------------------------------------------------------------


def _write(rank: int, path: Path, *mesh: int) -> None:
    write_one(path, 3, *mesh)


def _go_on(rank: int, path: Path, *mesh: int) -> Any:
    made = cut(network(seed=9), *mesh)
    by = optimizer(made)
    restore(path, made, [by])
    restored = whole(made, by)
    train(made, by, range(3, 5))
    return restored, whole(made, by)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2,), (3,), (2, 2)])
def test_on_other_numbers_of_processes(mesh: tuple[int, ...], tmp_path: Path) -> None:
    """What some have written others read bit for bit; their next steps are those of one process, to rounding."""
    path = tmp_path / "last.ckpt"
    on_ranks(torch.Size(mesh).numel(), _write, path, *mesh)
    check_whole(path)
    ordinary = consolidate(path)
    torch.save(ordinary, tmp_path / "file.ckpt")
    _close((ordinary["state_dict"], ordinary["optimizer_states"][0]["state"]), 3)
    for others in ((1,), (2,), (3,), (2, 2)):
        for file in (path, tmp_path / "file.ckpt"):
            for restored, after in on_ranks(torch.Size(others).numel(), _go_on, file, *others):
                assert same(restored, (ordinary["state_dict"], ordinary["optimizer_states"][0]["state"]))
                _close(after, 5)


def _close(found: Any, steps: int) -> None:
    weights, states = trained(steps)
    for name, value in weights.items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-12, atol=1e-12)
    assert found[1].keys() == states["state"].keys()
    for number, state in states["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(found[1][number][key], value, rtol=1e-12, atol=1e-12)


def _in_background(rank: int, folder: Path) -> list[Any]:
    """Saves step 3, and trains on while that is held up; then step 5, to the same name."""
    made = cut(network(), 2)
    by = optimizer(made)
    found = []
    for steps in (range(3), range(3, 5)):
        train(made, by, steps)
        group = Group({}, Memory())
        with group.saving("last.ckpt"):
            write(checkpoint(made, by, steps.stop), folder / "last.ckpt")
        kept = whole(made, by)
        group.start()
        on_its_way = any(thread.name == "checkpoint" for thread in threading.enumerate())
        if rank == 0 and steps.stop == 3:
            torch.save(kept, folder / "kept.pt")
        # The training goes on, with collectives of its own.
        train(made, by, range(10, 12))
        restored = None
        group.wait()
        torch.distributed.barrier()
        found.append((group.error, on_its_way, restored))
        restore(folder / "last.ckpt", made, [by])
        assert same(whole(made, by), kept)
    return found


@pytest.mark.slow
def test_written_beside_the_training(tmp_path: Path) -> None:
    for found in on_ranks(2, _in_background, tmp_path):
        assert [error for error, *_ in found] == [None, None]
    assert consolidate(tmp_path / "last.ckpt")["global_step"] == 5
    assert [file.name for file in tmp_path.glob("*.ckpt*")] == ["last.ckpt"]


def _fails(rank: int, path: Path) -> str:
    """The second process cannot write."""
    if rank == 1:
        from metronome.training.checkpoints.sharded import write as module

        def sums_of(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        module.sums_of = sums_of  # pyright: ignore
    try:
        write_one(path, 4, 2)
    except OSError as error:
        return str(error.strerror)
    return "written"


@pytest.mark.slow
def test_one_that_cannot_write_is_told_by_all(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    on_ranks(2, _write, path, 2)
    assert on_ranks(2, _fails, path) == ["No space left on device"] * 2
    assert consolidate(path)["global_step"] == 3
