"""Work done by several processes together, forked from this one: no wait for imports."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

_FORKS = multiprocessing.get_context("fork")


def together(count: int, folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 240) -> list[Any]:
    """What each of so many processes returns, by rank; they find each other as those of a launcher do.

    Raises:
        AssertionError: with the words of the first that failed, or that did not end.
    """
    port = find_free_network_port()
    processes: list[Any] = [
        _FORKS.Process(target=_one, args=(rank, count, port, folder, work, arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
    for rank in late:
        processes[rank].kill()
    failures = [path.read_text() for path in sorted(folder.glob("failed_*.txt"), key=lambda p: p.stat().st_mtime)]
    assert not failures, failures[0]
    assert not late, f"processes {late} did not end"
    assert all(process.exitcode == 0 for process in processes), [process.exitcode for process in processes]
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(count)]


def _one(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank),
        "RANK": str(rank), "NODE_RANK": "0",
    }  # fmt: skip
    rank_zero_only.rank = rank
    torch.set_num_threads(1)
    code = 0
    try:
        torch.save(work(*arguments), folder / f"result_{rank}.pt")
    except BaseException:
        (folder / f"failed_{rank}.txt").write_text(traceback.format_exc())
        code = 1
    os._exit(code)  # groups that are taken down at the end of a process may abort it
