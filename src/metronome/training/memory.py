"""Out of memory: how to tell, and how to get back what an attempt has taken."""

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the CPU, has no more memory to give."""
    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)


def free_memory() -> None:
    """Give back what nothing refers to any more. The error must have been let go: its frames hold the activations."""
    garbage_collection_cuda()


def one_line(error: BaseException) -> str:
    """The first sentence of what PyTorch says; the rest is about its allocator."""
    return " ".join(str(error).split()).split(". ")[0][:160] or type(error).__name__
