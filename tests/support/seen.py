"""Which samples each step of a run has seen, over all of its processes and starts: a callback that a run is given."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class Seen(Callback):
    """Keeps of each sample the digest of what it has."""

    def __init__(self, folder: str, pause: float = 0.0) -> None:
        self.folder, self.pause = Path(folder), pause

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        time.sleep(self.pause)  # for hosts to come and go meanwhile
        self.folder.mkdir(exist_ok=True)
        start = os.environ.get("MASTER_PORT", "0")  # each start has one of its own
        with open(self.folder / f"{start}_{trainer.global_rank}", "a") as file:
            file.write(f"{trainer.global_step} {trainer.epoch} {' '.join(map(_digest, batch[0]))}\n")


def _digest(sample: Any) -> str:
    return hashlib.sha256(sample.detach().cpu().float().numpy().tobytes()).hexdigest()[:16]


def seen_in(folder: Path) -> dict[int, list[str]]:
    """By epoch the samples of the steps that the weights have come from: of a step that was made again the last."""
    steps: dict[int, dict[str, list[list[str]]]] = {}
    last: dict[int, tuple[float, str]] = {}
    for file in folder.iterdir():
        start = file.name.split("_")[0]
        for line in file.read_text().splitlines():
            step, *rest = line.split()
            steps.setdefault(int(step), {}).setdefault(start, []).append(rest)
            last[int(step)] = max(last.get(int(step), (0.0, "")), (file.stat().st_mtime, start))
    epochs: dict[int, list[str]] = {}
    for step, starts in sorted(steps.items()):
        for epoch, *samples in starts[last[step][1]]:
            epochs.setdefault(int(epoch), []).extend(samples)
    return epochs
