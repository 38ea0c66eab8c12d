"""What a process sends to others, counted at the dispatcher: also what C++ begins."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Sent(TorchDispatchMode):
    """While it is entered, the names of the collectives that are begun."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.names.append(func._schema.name.split("::")[1])
        return func(*args, **kwargs or {})
