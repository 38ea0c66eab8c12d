"""A checkpoint that is a folder, read on any number of processes, or by one as a file is."""

import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from metronome.training.checkpoints.sharded.folder import PLAIN
from metronome.training.checkpoints.sharded.nesting import absent, together
from metronome.training.checkpoints.sharded.states import by_index
from metronome.units import InputError

# What the list of contents that torch.distributed.checkpoint writes is made of: a pickle, which might run anything.
_DCP = "torch.distributed.checkpoint"
_OF_CONTENTS = {
    *(f"{_DCP}.metadata.{name}" for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *(f"{_DCP}.metadata.{kind}StorageMetadata" for kind in ("Tensor", "Bytes", "Chunk")),
    f"{_DCP}.metadata._MEM_FORMAT_ENCODING",
    f"{_DCP}.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "torch.Size",
    "collections.OrderedDict",
    *(f"pathlib{inside}.{kind}Path" for inside in ("", "._local") for kind in ("Posix", "Windows")),
    *(f"pathlib{inside}.Pure{kind}Path" for inside in ("", "._local") for kind in ("Posix", "Windows")),
}


def read_plain(path: str | Path) -> dict[str, Any]:
    """All of a checkpoint but the tensors that are cut up, in whose place are some without memory (device `meta`)."""
    return torch.load(Path(path) / PLAIN, map_location="cpu", weights_only=True)


def consolidate(path: str | Path, parts: Iterable[str] | None = None) -> dict[str, Any]:
    """A checkpoint as an ordinary one: whole tensors on the CPU, optimizers as one device has them. No code is run.

    Args:
        path: the folder.
        parts: of the checkpoint, such as `state_dict`, of which the tensors are wanted; None: of all. Those of others
            have no memory.

    Raises:
        InputError: if something in it is damaged.
    """
    plain, wanted = read_plain(path), None if parts is None else set(parts)
    tensors = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype)
        for name, tensor in absent(plain)
        if wanted is None or name.partition(".")[0] in wanted
    }
    read_tensors(tensors, Shards(path))
    checkpoint = together(plain, tensors)
    if "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = [by_index(state) for state in checkpoint["optimizer_states"]]
    return checkpoint


def read_tensors(tensors: dict[str, Any], reader: StorageReader) -> None:
    """Fill tensors, of which some may be DTensors: this process reads what is its own, and waits for no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it reads alone
        try:
            if tensors:
                load(tensors, storage_reader=reader, no_dist=True)
        except CheckpointException as error:  # which is no Exception
            failure, _ = next(iter(error.failures.values()))
            raise failure from None


class Shards(FileSystemReader):
    """Reads a folder's shards, without running what its list of contents might say. `path` is the folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        file = Path(self.path) / ".metadata"
        try:
            with file.open("rb") as contents:
                metadata = _Contents(contents).load()
        except Exception as error:  # a damaged file raises whatever its bytes happen to say
            raise InputError(f"checkpoint {self.path} is damaged in .metadata ({error})") from error
        if not isinstance(metadata, Metadata):
            raise InputError(f"checkpoint {self.path} is damaged in .metadata: it holds a {type(metadata).__name__}")
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        try:
            return super().read_data(plan, planner)
        except Exception as error:  # a damaged file raises whatever its bytes happen to say
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise InputError(f"checkpoint {self.path} is damaged in its shards ({reason})") from error


class _Contents(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        is_type = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype | torch.layout)
        if not is_type and name not in _OF_CONTENTS:
            raise pickle.UnpicklingError(f"it asks for {name}")
        return super().find_class(module_name, global_name)


class Whole(StorageReader):
    """Reads shards out of whole tensors, such as those of a file that is mapped into memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata({name: _described(tensor) for name, tensor in self.tensors.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            index: MetadataIndex = item.storage_index
            piece = self.tensors[index.fqn]
            for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                piece = piece.narrow(dimension, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(piece)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _described(tensor: Tensor) -> TensorStorageMetadata:
    whole = ChunkStorageMetadata(offsets=torch.Size([0] * tensor.dim()), sizes=tensor.size())
    return TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.size(), [whole])
