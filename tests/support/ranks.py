"""Work done by several processes with gloo: forks of this one, which has imported everything."""

from __future__ import annotations

import io
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, HashStore


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of so many processes. An error in one is this one's."""
    context = multiprocessing.get_context("fork")
    with tempfile.NamedTemporaryFile() as store:
        queue = context.SimpleQueue()
        processes = [
            context.Process(target=_rank, args=(rank, count, f"{store.name}.store", queue, work, arguments))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        found: dict[int, Any] = {}
        for _ in processes:
            rank, value, error = queue.get()
            if error:
                for process in processes:
                    process.kill()
                raise AssertionError(f"process {rank}: {error}")
            found[rank] = torch.load(io.BytesIO(value), weights_only=False)
        for process in processes:
            process.join()
    return [found[rank] for rank in range(count)]


def _rank(rank: int, count: int, store: str, queue: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        dist.init_process_group(
            "gloo", store=FileStore(store, count), rank=rank, world_size=count, timeout=timedelta(seconds=60)
        )
        value = work(rank, *arguments)
        dist.barrier()
        dist.destroy_process_group()
        bytes_of = io.BytesIO()  # tensors would come as files of a process that has ended
        torch.save(value, bytes_of)
        queue.put((rank, bytes_of.getvalue(), ""))
    except BaseException:
        queue.put((rank, None, traceback.format_exc()))


@contextmanager
def alone() -> Iterator[None]:
    """This process as the only one of a group."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
