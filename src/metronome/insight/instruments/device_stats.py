"""Memory and load of the machine and of its GPU."""

import os
from contextlib import suppress
from typing import Any

import lightning as L
import torch

from metronome.insight.instruments.log_points import GROUP, Instrument, log_scalars
from metronome.units import InputError


class DeviceStats(Instrument):
    """Logs `watch/memory_gb` and `watch/cpu_percent` of this process, `watch/machine_memory_percent` and
    `watch/machine_cpu_percent` of all, at log points; on a GPU also `watch/gpu_memory_gb`, what PyTorch has of it,
    `watch/gpu_memory_peak_gb`, the most since the last log point, and where the package nvidia-ml-py is there
    `watch/gpu_percent`.

    On several devices it is the first process, and its GPU. Percentages are since the last log point; of this process
    100 is one core. Nothing of the training waits for it: the numbers are the driver's and the operating system's.

    Raises:
        InputError: without the package psutil.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import psutil  # pyright: ignore
        except ModuleNotFoundError as error:
            raise InputError(
                "callbacks=device_stats needs the package psutil: pip install -e '.[callbacks]'"
            ) from error
        self._psutil, self._process = psutil, psutil.Process(os.getpid())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._process.cpu_percent()  # from here on
            self._psutil.cpu_percent()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_due or not trainer.is_global_zero:
            return
        found = {
            "memory_gb": self._process.memory_info().rss / 1e9,
            "cpu_percent": self._process.cpu_percent(),
            "machine_memory_percent": self._psutil.virtual_memory().percent,
            "machine_cpu_percent": self._psutil.cpu_percent(),
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":
            found |= _of_gpu(device)
        log_scalars(trainer, {f"{GROUP}/{name}": value for name, value in found.items()})


def _of_gpu(device: torch.device) -> dict[str, float]:
    found = {
        "gpu_memory_gb": torch.cuda.memory_allocated(device) / 1e9,
        "gpu_memory_peak_gb": torch.cuda.max_memory_allocated(device) / 1e9,
    }
    torch.cuda.reset_peak_memory_stats(device)
    with suppress(ModuleNotFoundError, RuntimeError):
        found["gpu_percent"] = float(torch.cuda.utilization(device))
    return found
