"""What a layer or a loss of PyTorch does not take: said in one line, since data and model that do not fit are no bug.

Imports nothing heavy.
"""

import re
import traceback
from types import FrameType

# Errors of one's own code are of these types too, but are not raised within a layer of PyTorch.
_KINDS = (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AttributeError)
_CAST = ", and weights are float32: x.float(), or x.astype('float32') of an array"
# These are about the machine, not about what was given.
_OTHERWISE = re.compile(r"CUDA|CUDNN|cuDNN|CUBLAS|memory|device")


def layer_error(error: BaseException) -> str | None:
    """The line for an input that a layer or a loss of `torch.nn` does not take; None for any other error."""
    if type(error) not in _KINDS or _OTHERWISE.search(str(error)):
        return None
    frame = _refusal(error)
    if frame is None:
        return None
    code, given = frame.f_code, frame.f_locals
    layer = given.get("self")
    name = code.co_name if layer is None else repr(layer) if "\n" not in repr(layer) else type(layer).__name__
    inputs = [f"{key} {_described(given.get(key))}" for key in code.co_varnames[: code.co_argcount] if key != "self"]
    return (
        f"{name} does not take {', '.join(inputs[:2])}: {' '.join(str(error).split())[:200]}; "
        f"model and data must fit{_CAST if 'same dtype' in str(error) else ''}; HYDRA_FULL_ERROR=1 shows where"
    )


def _refusal(error: BaseException) -> FrameType | None:
    """The call of a layer or function of `torch.nn`, the last one that is not made by PyTorch itself, or within it."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if function == "__torch_dispatch__":
            continue  # somebody looks on at what is computed
        is_layer = function == "forward" and module.startswith("torch.nn.modules.")
        if not module.startswith("torch."):
            found = None
        elif is_layer or (found is None and module == "torch.nn.functional"):
            found = frame
    return found


def _described(value: object) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"  # pyright: ignore
    return f"of type {type(value).__name__}"
