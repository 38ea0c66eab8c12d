"""A checkpoint that is a folder of shards, wherever one that is a file is taken."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from cut_up import same
from ranks import alone
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import metronome
from metronome.app.run.checkpoints import read_checkpoint
from metronome.training.checkpoints.sharded.folder import MARKER, is_sharded
from metronome.training.checkpoints.sharded.states import by_name
from metronome.training.checkpoints.sharded.write import write

JOB = ("+experiment=linear", "trainer.max_epochs=2", "hydra.run.dir=run", "optimizer=momentum", "optimizer.lr=0.1")


def shard(path: Path) -> None:
    """Make of a file what a sharded training would have written, in its place."""
    checkpoint = torch.load(path, weights_only=True)
    with alone():
        mesh = init_device_mesh("cpu", (1,))

        def cut(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: cut(each) for key, each in value.items()}
            is_weight = isinstance(value, torch.Tensor) and value.dim() > 0
            return distribute_tensor(value, mesh, [Shard(0)]) if is_weight else value

        weights = list(checkpoint["state_dict"])
        checkpoint["state_dict"] = cut(checkpoint["state_dict"])
        checkpoint["optimizer_states"] = [cut(by_name(each, weights)) for each in checkpoint["optimizer_states"]]
        write(checkpoint, path)


@pytest.mark.slow
def test_everywhere(commands: Commands, tmp_path: Path) -> None:
    """Tested, loaded, made a file, gone on from: as the file is."""
    assert commands("train", *JOB).code == 0
    run = tmp_path / "run"
    shutil.copytree(run, tmp_path / "other")
    for name in ("best.ckpt", "last.ckpt"):
        shard(run / "checkpoints" / name)
        assert is_sharded(run / "checkpoints" / name)
    best, whole = run / "checkpoints/best.ckpt", tmp_path / "other/checkpoints/best.ckpt"
    tested = [commands("evaluate", str(path)).out for path in (best, whole)]
    assert tested[0] == tested[1]
    assert same(metronome.load(best).state_dict(), metronome.load(whole).state_dict())

    done = commands("consolidate", str(best), "--to", "one.ckpt")
    assert (done.code, done.out.split(":")[0].split(",")[0]) == (0, f"step {read_checkpoint(whole)['global_step']}")
    assert same(read_checkpoint(tmp_path / "one.ckpt"), read_checkpoint(best))
    assert commands("consolidate", str(best), "--to", "weights.ckpt", "--weights-only").code == 0
    assert same(metronome.load(tmp_path / "weights.ckpt").state_dict(), metronome.load(whole).state_dict())

    ends = []
    for folder in ("run", "other"):
        job = [argument.replace("=run", f"={folder}") for argument in JOB]
        done = commands("train", *job, "trainer.max_epochs=4", "ckpt_path=last")
        assert done.code == 0, done.err
        result = json.loads((tmp_path / folder / "result.json").read_text())
        ends.append((result["weights_sha256"], result["metrics"], result["best"], result["progress"]))
    assert ends[0] == ends[1]
    assert (run / "checkpoints/last.ckpt").is_file()  # one device has put a file in the place of the folder


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("file.ckpt", "--to", "one.ckpt"), "checkpoint file.ckpt is one file already"),
        (("none.ckpt", "--to", "one.ckpt"), "checkpoint none.ckpt is not there; give the path of one such as"),
        (("folder", "--to", "one.ckpt"), "checkpoint folder is a folder of another kind"),
        (("marked", "--to", "."), ". is a folder; give the name of a file, such as best.ckpt"),
        (("marked", "--to", "one.ckpt"), "checkpoint marked cannot be read as plain data: No such file or directory"),
    ],
)
def test_what_cannot_be_made_a_file(arguments: tuple[str, ...], line: str, commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file.ckpt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "marked").mkdir()
    (tmp_path / "marked" / MARKER).write_text('{"files": {}}')
    done = commands("consolidate", *arguments)
    assert done.code != 0
    assert line in " ".join(done.err.split()), done.err
