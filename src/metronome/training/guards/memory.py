"""Out of memory: how to tell, and how to get back what an attempt has taken."""

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the CPU, has no more memory to give."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error)  # Lightning takes it for granted that an error's one argument is text
    is_known = isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in text
    return is_known or is_oom_error(RuntimeError(text))


def free_memory() -> None:
    """Give back what nothing refers to any more. The error must have been let go: its frames hold the activations."""
    garbage_collection_cuda()


def one_line(error: BaseException) -> str:
    """The sentence in which PyTorch says it; the others are about where, and about its allocator."""
    sentences = " ".join(str(error).split()).split(". ")
    said = next((sentence for sentence in sentences if "memory" in sentence), sentences[0])
    return said[:160] or type(error).__name__
