"""The most memory that a run took."""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Start measuring anew: a sweep runs many jobs in one process."""
    if torch.cuda.is_initialized():  # only then; asking would take memory on a GPU that is not this process's
        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    with suppress(OSError, AttributeError):
        # What the jobs before have freed is kept by glibc, and would count as this one's.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):  # not Linux, or not allowed: then the peak is that of the process
        _CLEAR.write_text("5")  # resets VmHWM: see proc_pid_clear_refs(5)


def peak_memory_bytes(on_gpu: bool) -> int:
    """Bytes: what PyTorch allocated on this process's GPU, or the process's resident memory on a CPU."""
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource  # not on Windows, where the first way fails too

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
