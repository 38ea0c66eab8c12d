"""A checkpoint copied into main memory as it is now, so that the training may change what it was made of."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Copies:
    """Copies of the checkpoints of one moment, between which no step is made: what is in several is copied once.

    What lies on a GPU comes over by itself into pinned memory, behind the work that is in its queue; nothing here waits
    for it. Tensors that share memory share it in the copy too, so that the file has the same bytes.
    """

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}  # by storage, as `copy.deepcopy` keeps it for torch
        self._hosts: dict[tuple[int, int], Tensor] = {}
        self._versions: dict[tuple[int, int], int] = {}
        self._kept: list[Any] = []  # no other tensor may come to lie where one was that has been copied

    def of(self, checkpoint: Any) -> tuple[Any, Callable[[], None]]:
        """A copy, and what to call before it is read: it waits until all of it has arrived.

        Raises:
            Exception: for what cannot be copied, such as an object of a class that forbids it.
        """
        tensors = [_local(tensor) for tensor in tensors_in(checkpoint)]
        if any(self._versions.get(_place(tensor), v) != v for tensor, v in ((t, _version(t)) for t in tensors)):
            self.__init__()
        self._versions |= {_place(tensor): _version(tensor) for tensor in tensors}
        self._kept.append(tensors)

        memo: dict[Any, Any] = {"torch": self._shared}
        for tensor in tensors_in(checkpoint):
            if isinstance(tensor, DTensor):
                memo[id(tensor)] = self._of_shard(tensor, memo)
            elif _is_elsewhere(tensor):
                memo[id(tensor)] = self._brought(tensor)
        return copy.deepcopy(checkpoint, memo), _arrival({t.device for t in tensors if t.is_cuda})

    def _of_shard(self, tensor: DTensor, memo: dict[Any, Any]) -> DTensor:
        local = tensor.to_local().detach()
        local = self._brought(local) if _is_elsewhere(local) else copy.deepcopy(local, memo)
        return DTensor.from_local(
            local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def _brought(self, tensor: Tensor) -> Tensor:
        """The same tensor in main memory, over a copy of all the memory that it is a view of."""
        place, there = _place(tensor), tensor.untyped_storage()
        if place not in self._hosts:
            here = torch.empty(there.nbytes(), dtype=torch.uint8, pin_memory=tensor.is_cuda)
            all_of_it = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(there)  # pyright: ignore
            self._hosts[place] = here.copy_(all_of_it, non_blocking=tensor.is_cuda)
        here = self._hosts[place].untyped_storage()
        view = torch.empty(0, dtype=tensor.dtype).set_(here, tensor.storage_offset(), tensor.size(), tensor.stride())  # pyright: ignore
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


def _is_elsewhere(tensor: Tensor) -> bool:
    """Whether it lies on a device, as plain memory."""
    return tensor.device.type not in ("cpu", "meta") and tensor.layout == torch.strided


def _place(tensor: Tensor) -> tuple[int, int]:
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return (id(tensor), -1)
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
