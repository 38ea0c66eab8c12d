"""A checkpoint copied into main memory as it is now, so that the training may change what it was made of."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Memory:
    """Main memory for the copies of one moment, used again for those of the next: asking the system for it takes
    longer than copying."""

    def __init__(self) -> None:
        self._free: dict[tuple[int, bool], list[Tensor]] = {}
        self._used: list[tuple[tuple[int, bool], Tensor]] = []

    def take(self, size: int, pinned: bool) -> Tensor:
        """So many bytes; pinned where a GPU is to write there by itself."""
        key = (size, pinned)
        there = self._free.get(key) or [torch.empty(size, dtype=torch.uint8, pin_memory=pinned)]
        self._used.append((key, there[-1]))
        return there.pop()

    def turn_over(self) -> None:
        """Nobody reads what was copied any more. What was not needed for it is given back."""
        self._free = {}
        for key, buffer in self._used:
            self._free.setdefault(key, []).append(buffer)
        self._used = []


class Copies:
    """Copies of the checkpoints of one moment, between which no step is made: what is in several is copied once.

    What lies on a GPU comes over by itself into pinned memory, behind the work that is in its queue; nothing here waits
    for it. Tensors that share memory share it in the copy too, so that the file has the same bytes.

    Args:
        memory: to copy to.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._here: dict[tuple[int, int], Tensor] = {}  # by where it is copied from
        self._versions: dict[tuple[int, int], int] = {}
        self._kept: list[Any] = []  # no other tensor may come to lie where one was that has been copied

    def of(self, checkpoint: Any) -> tuple[Any, Callable[[], None]]:
        """A copy, and what to call before it is read: it waits until all of it has arrived.

        Raises:
            Exception: for what cannot be copied, such as an object of a class that forbids it.
        """
        tensors = [tensor for tensor in map(_local, tensors_in(checkpoint)) if _is_plain(tensor)]
        versions = {_place(tensor): _version(tensor) for tensor in tensors}
        if any(self._versions.get(place, version) != version for place, version in versions.items()):
            self._here, self._versions = {}, {}
        self._versions |= versions
        self._kept.append(tensors)

        memo: dict[int, Any] = {}
        for tensor in tensors_in(checkpoint):
            if isinstance(tensor, DTensor):
                memo[id(tensor)] = self._of_shard(tensor)
            elif _is_plain(tensor):
                memo[id(tensor)] = self._copied(tensor)
        return copy.deepcopy(checkpoint, memo), _arrival({t.device for t in tensors if t.is_cuda})

    def _of_shard(self, tensor: DTensor) -> DTensor:
        local = tensor.to_local().detach()
        return DTensor.from_local(
            self._copied(local) if _is_plain(local) else copy.deepcopy(local),
            tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride(),
        )  # fmt: skip

    @torch.no_grad()
    def _copied(self, tensor: Tensor) -> Tensor:
        """The same tensor in main memory, over a copy of all the memory that it is a view of."""
        place, there = _place(tensor), tensor.untyped_storage()
        if place not in self._here:
            all_of_it = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(there)  # pyright: ignore
            here = self.memory.take(there.nbytes(), pinned=tensor.is_cuda)
            self._here[place] = here.copy_(all_of_it, non_blocking=tensor.is_cuda)
        view = torch.empty(0, dtype=tensor.dtype)
        view.set_(self._here[place].untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())  # pyright: ignore
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(view, tensor.requires_grad)
        return view.requires_grad_(tensor.requires_grad)


def tensors_in(content: Any) -> Iterator[Tensor]:
    """The tensors in a nesting of plain containers."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, list | tuple | set):
        for value in content:
            yield from tensors_in(value)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is memory seen with strides, and nothing else."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_meta:
        return False
    return not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.__dict__)


def _place(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return (storage.data_ptr(), storage.nbytes())


def _version(tensor: Tensor) -> int:
    """How often it was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _arrival(devices: set[torch.device]) -> Callable[[], None]:
    """Waits until all that is in the devices' queues now is done."""
    events = []
    for device in devices:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        events.append(event)

    def wait() -> None:
        for event in events:
            event.synchronize()

    return wait
