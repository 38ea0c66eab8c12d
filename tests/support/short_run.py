"""A short run with a checkpoint for each epoch, and what a kill would have left of it."""

import shutil
from pathlib import Path

from forked import run_forked

JOB = ("+experiment=digits", "model=mlp", "data.batch_size=256", "trainer.max_epochs=3", "trainer.log_every_n_steps=1")
FIRST = Path("runs/digits/first")
EACH_EPOCH = (
    "+callbacks.each={_target_: metronome.training.Checkpoint, dirpath: '${run_dir}/checkpoints/epochs', filename: "
    "'{step}', save_top_k: -1}",
)


def make_whole(folder: Path) -> Path:
    """A folder with one run that came to its end."""
    done = run_forked(folder, "train", *JOB, *EACH_EPOCH, f"hydra.run.dir={FIRST}")
    assert done.code == 0, done.err
    return folder


def cut_off(run: Path, epochs: int = 2, steps: int = 5) -> None:
    """Leave a finished run as a kill after its second epoch would have left it."""
    (run / "result.json").unlink()
    kept = run / "checkpoints/epochs"
    shutil.copy2(kept / f"step={epochs * steps}.ckpt", run / "checkpoints/last.ckpt")
    (run / "checkpoints/best.ckpt").unlink()
    for path in kept.iterdir():
        path.unlink()
