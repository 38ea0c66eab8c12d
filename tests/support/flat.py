"""A training in a process of its own on very many samples, and what it took: `python flat.py '{"rows": 100000, ...}'`.

Rows are of 64 float32. Those of a file are zeros that take no room on the disk; those that are computed are anything.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
WIDTH, BATCH = 64, 256


def status(process: int | str, name: str) -> int:
    """A line of what the system says about the memory of a process, in bytes."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split(f"\n{name}:")[1].split()[0]) * 1024


def measured(kind: str, rows: int, workers: int, steps: int, folder: str, resume: bool = False) -> dict[str, Any]:
    import lightning as L
    import numpy as np
    import torch
    from torch import nn

    from metronome.data import DataModule, Splits
    from metronome.training import Trainer

    class Computed:
        shape, dtype = (rows, WIDTH), np.dtype("f4")

        def __getitem__(self, asked: Any) -> Any:
            return (asked[:, None] % 97 + np.arange(WIDTH) % 7).astype("f4") / 100

    class Data(DataModule):
        def load(self) -> Splits:
            if kind == "computed":
                return Splits(Computed(), Computed())  # the validation is cut short below
            path = Path(folder, f"{rows}.bin")
            with path.open("ab") as file:
                file.truncate(rows * WIDTH * 4)
            x = np.memmap(path, dtype="f4", mode="r", shape=(rows, WIDTH))
            return Splits(np.array(x) if kind == "memory" else x)

    class Net(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.first = nn.Linear(WIDTH, 1), 0.0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.first = self.first or time.monotonic()
            return (self.net(batch) - 1).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.net(batch).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def on_train_end(self) -> None:
            workers = [child.pid for child in multiprocessing.active_children()]
            found["worker_peak"] = max((status(pid, "VmHWM") for pid in workers if pid), default=0)
            found["worker_own"] = max((status(pid, "RssAnon") for pid in workers if pid), default=0)

    found: dict[str, Any] = {}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, seed=1, max_steps=steps, limit_val_batches=2, num_sanity_val_steps=0,
        val_check_interval=10,
    )  # fmt: skip
    net = Net()
    ready = time.monotonic()
    checkpoint = Path(folder, f"{kind}_{rows}.ckpt")
    data = Data(batch_size=BATCH, num_workers=workers)
    run.fit(net, datamodule=data, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
    assert run.global_step == steps
    if not resume:
        run.save_checkpoint(checkpoint)
    found |= {
        "peak": status("self", "VmHWM"),
        "own": status("self", "RssAnon"),  # in no file: what the system cannot take back
        "first_batch_seconds": net.first - ready,
        "weights": [parameter.tolist() for parameter in net.parameters()],
    }
    return found


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore")
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
