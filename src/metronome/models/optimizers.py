"""Optimizers beside those of `torch.optim`."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, AdamW, Optimizer

from metronome.units import InputError, check_number

# Of the options of `torch.optim`, and of those written in its manner, these are numbers, or as many as by default.
_NUMBERS = (
    "lr",
    "momentum",
    "weight_decay",
    "eps",
    "tolerance_grad",
    "tolerance_change",
    "betas",
    "etas",
    "step_sizes",
)


def check_options(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises InputError for an option that is no number where `make` has one by default, or not as many numbers.

    PyTorch looks at few of them; the others fail in the first step, or not at all.
    """
    for name, parameter in inspect.signature(make).parameters.items():
        usual = parameter.default
        if name not in _NUMBERS or name not in options or usual is None or usual is parameter.empty:
            continue
        given = options[name]
        if not isinstance(usual, Sequence):
            if not _is_finite(given):
                raise InputError(f"optimizer.{name}={given!r} is not a finite number, such as {usual}")
        elif not _is_like(given, usual):
            count = "a pair of" if len(usual) == 2 else len(usual)
            parts = ",".join("null" if part is None else str(part) for part in usual)
            raise InputError(f"optimizer.{name}={given!r} is not {count} numbers; write for example [{parts}]")


def _is_like(given: Any, usual: Sequence[float | None]) -> bool:
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(usual):
        return False
    return all(_is_finite(a) or (a is None and b is None) for a, b in zip(given, usual, strict=True))


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):  # of a rate that is to change within a graph
        return value.numel() == 1 and bool(value.isfinite())
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def lbfgs(
    params: Iterable[Tensor],
    lr: float = 1.0,
    max_iter: int = 20,
    history_size: int = 10,
    line_search_fn: str | None = "strong_wolfe",
    **options: Any,
) -> LBFGS:
    """`torch.optim.LBFGS`, whose arguments are looked at before the first step and not in it.

    Source: Liu & Nocedal (1989), Mathematical Programming 45.

    Args:
        params: the parameters of the network.
        lr: the first length that the line search tries; without one, of every update.
        max_iter: directions in a step; each is searched along with several evaluations of the batch.
        history_size: differences of gradients from which the curvature is taken.
        line_search_fn: `strong_wolfe`, or None for updates of length `lr`.
        options: others of `torch.optim.LBFGS`.

    Raises:
        InputError: for a value that is not allowed.
    """
    check_number("optimizer.max_iter", max_iter, "iterations")
    check_number("optimizer.history_size", history_size, "gradients")
    if line_search_fn not in (None, "strong_wolfe"):
        raise InputError(f"optimizer.line_search_fn={line_search_fn} is not known; use strong_wolfe or null")
    return LBFGS(params, lr=lr, max_iter=max_iter, history_size=history_size, line_search_fn=line_search_fn, **options)


class Muon(Optimizer):
    """Muon for the matrices of a network, AdamW for all else (biases, norms, convolutions), as one optimizer.

    Muon makes of a matrix's momentum the nearest orthogonal matrix and takes that for the update. `torch.optim.Muon`
    and `torch.optim.AdamW` do the work, each on a group of its own, of the same rate: schedulers scale both. Every
    parameter of two dimensions is a matrix here, those of embeddings and the last layer too.

    Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon; one rate for both: Liu et al. (2025),
    arXiv 2502.16982.

    Args:
        params: the parameters of the network.
        lr: of both.
        weight_decay: of both, decoupled.
        momentum: of the matrices, from 0 to below 1.
        nesterov: whether to look ahead by one step of it.
        ns_steps: steps of the Newton-Schulz iteration that makes an update orthogonal.
        adjust_lr_fn: what a matrix's rate is times: `match_rms_adamw`, 0.2 sqrt(max(rows, columns)), makes its updates
            as large as AdamW's, so that one rate does for both; `original`, sqrt(max(1, rows / columns)).
        betas, eps: of AdamW.

    Raises:
        InputError: if there is no matrix, this PyTorch has no Muon, or a value is not allowed; for a group added later.
        ValueError: for values that PyTorch's optimizers refuse.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(f"optimizer=muon needs PyTorch 2.9 or newer, and this is {torch.__version__}")
        given = list(params)
        if not all(isinstance(parameter, Tensor) for parameter in given):
            raise InputError("optimizer=muon makes its own groups; give it the parameters, not groups of them")
        check_number("optimizer.ns_steps", ns_steps, "steps")
        if ns_steps > 99:
            raise InputError(f"optimizer.ns_steps={ns_steps} is more than 99; 5 will do")
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        check_options(type(self), options)
        if not 0 <= momentum < 1:
            raise InputError(f"optimizer.momentum={momentum} is not a number from 0 to below 1; 0.95 is usual")
        if not isinstance(nesterov, bool):
            raise InputError(f"optimizer.nesterov={nesterov!r} is neither true nor false")
        matrices = [parameter for parameter in given if parameter.ndim == 2]
        others = [parameter for parameter in given if parameter.ndim != 2]
        if not matrices:
            raise InputError("optimizer=muon is for matrices, and this network has none; use optimizer=adamw")
        parts: list[Optimizer] = [
            torch.optim.Muon(
                matrices, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn
            )
        ]
        if others:
            parts.append(AdamW(others, lr, (betas[0], betas[1]), eps, weight_decay))
        super().__init__([group for part in parts for group in part.param_groups], {"lr": lr})
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # Once the parts are there, none of them would train it.
        if hasattr(self, "_parts"):
            raise InputError(
                "optimizer=muon makes its groups of the parameters that it is given first, and takes none later; "
                "give it all of them, or use optimizer=adamw"
            )
        super().add_param_group(param_group)

    def _share(self) -> None:
        """Let both work on the groups and states of this optimizer, which are those that schedulers and checkpoints
        know."""
        self._parts: list[Optimizer] = []
        for group, kind in zip(self.param_groups, (torch.optim.Muon, AdamW), strict=False):
            part = kind(group["params"])
            part.param_groups, part.state = [group], self.state
            self._parts.append(part)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also where a state is loaded: it comes in new groups.
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
