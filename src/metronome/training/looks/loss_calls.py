"""What the calls that a module makes to get its loss say about it: whether it is a mean over samples, and is drawn."""

import contextlib
from collections.abc import Callable
from inspect import Signature, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from metronome.training.looks.left_behind import LeftBehind
from metronome.training.looks.loss_graph import LossGraph
from metronome.training.looks.over_samples import OverSamples, is_a_sum


def _losses() -> dict[Callable[..., Any], Signature]:
    """The losses of PyTorch that are a mean, or a sum, or neither."""
    found = (getattr(F, name) for name in dir(F) if name.endswith(("loss", "entropy", "logits")) or name == "kl_div")
    with_signature = ((f, signature(f)) for f in found if callable(f) and f.__module__ == F.__name__)
    return {f: given for f, given in with_signature if "reduction" in given.parameters}


_LOSSES = _losses()
_PRODUCTS = {"matmul", "mm", "__matmul__", "__rmatmul__", "cdist", "cosine_similarity", "einsum", "bmm"}
_DRAWS = ("rand", "bernoulli", "normal", "multinomial", "uniform_", "exponential_", "poisson")
_SPREADS = {"std", "var", "std_mean", "var_mean"}


class LossCalls(TorchFunctionMode):
    """Notes, while a module computes the loss of a micro-batch, why that is no mean over its samples.

    It is certain of a sum, of class weights, of labels left out and of rows that are no multiple of the samples. Two
    samples compared, and a spread over samples, it takes from shapes: a matrix of samples by samples. What is worked
    out by hand it takes from the graph of the loss (`LossGraph`) and from numbers of the data (`OverSamples`).

    Attributes:
        samples: in the micro-batch.
        reasons: found so far, one for each call and kind.
        couples: whether samples are compared or mixed, which no weight can mend.
        draws: whether random numbers are drawn.
    """

    def __init__(self, left: LeftBehind) -> None:
        super().__init__()
        self.samples, self.couples, self.draws, self._left = 0, False, False, left
        self.reasons: dict[tuple[str, str], str] = {}
        self._over, self._alone = OverSamples(), dict[str, int]()

    def begin(self, samples: int) -> None:
        """A micro-batch of as many begins."""
        self.samples = samples
        self._over.clear()
        self._alone.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not torch.compiler.is_compiling():  # a compiler reads along, and cannot read what follows
            with contextlib.suppress(Exception):  # a call as nobody foresaw it: a look must not end a training
                self._look(func, args, kwargs or {}, output)
        return output

    def _look(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._left.takes_up(args)
        self._left.takes_up(kwargs.values())
        name = getattr(func, "__name__", "")
        self._look_at_draws(name, args, kwargs)
        if self.samples > 1:
            if used := self._over.sees(name, args, kwargs, output, self.samples):
                self._note(used, "is taken over samples")
                self.couples = self.couples or not is_a_sum(used)
            if (given := _LOSSES.get(func)) is not None:
                self._look_at_loss(name, given.bind(*args, **kwargs))
            elif isinstance(output, Tensor) or type(output) is tuple:
                self._look_at_samples(name, args, kwargs, output)

    def add(self, graph: LossGraph) -> None:
        """A micro-batch is over: what the graph of its loss has told."""
        for name, calls in self._alone.items():
            if calls % self.samples:
                self._note(name, "is a mean over rows", f"{calls:,} of {self.samples:,} samples")
        self.reasons.update({key: why for key, why in graph.reasons.items() if key not in self.reasons})
        self.couples = self.couples or graph.couples

    def _look_at_loss(self, name: str, call: Any) -> None:
        call.apply_defaults()
        given = call.arguments
        predicted, target, reduction = next(iter(given.values())), given.get("target"), given.get("reduction")
        if not isinstance(predicted, Tensor) or not predicted.requires_grad or reduction == "none":
            return
        if reduction == "sum":
            self._note(name, "is a sum")
        elif name in ("cross_entropy", "nll_loss") and given.get("weight") is not None:
            self._note(name, "has class weights")
        elif name in ("cross_entropy", "nll_loss") and _leaves_out(target, given["ignore_index"]):
            self._note(name, f"leaves out labels of {given['ignore_index']}")
        elif name != "kl_div" and _rows(predicted) % self.samples:
            if _rows(predicted) == 1:  # each sample by itself, perhaps
                self._alone[name] = self._alone.get(name, 0) + 1
                return
            self._note(name, "is a mean over rows", f"{_rows(predicted):,} of {self.samples:,} samples")

    def _look_at_samples(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        if name in _PRODUCTS:
            shape = tuple(output.shape) if isinstance(output, Tensor) and output.requires_grad else ()
            if len(shape) == 2 and shape[0] == shape[1] and self._counts(shape[0]) and not _of_parameters(args):
                self._note(name.strip("_"), "compares samples", f"{shape[0]:,} x {shape[1]:,}")
                self.couples = True
        elif name in _SPREADS and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            values = args[0]
            dim = kwargs.get("dim", args[1] if len(args) > 1 and not isinstance(args[1], bool) else None)
            over = (dim,) if isinstance(dim, int) else dim
            is_over_samples = over is None or 0 in over or -values.dim() in over
            if values.dim() and is_over_samples and self._counts(values.shape[0]) and not _of_parameters(args):
                self._note(name, "is taken over samples")
                self.couples = True

    def _look_at_draws(self, name: str, args: Any, kwargs: Any) -> None:
        if name == "scaled_dot_product_attention":
            self.draws = self.draws or bool(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0))
        elif "dropout" in name:
            p, is_on = kwargs.get("p", args[1] if len(args) > 1 else 0.5), kwargs.get("training", kwargs.get("train"))
            is_on = (args[2] if len(args) > 2 else True) if is_on is None else is_on
            self.draws = self.draws or bool(p and is_on)
        elif name.startswith(_DRAWS):
            self.draws = True
            if name == "randperm" and self.samples > 1 and self._counts(args[0] if args else kwargs["n"]):
                self._note(name, "mixes samples")
                self.couples = True

    def _note(self, name: str, what: str, how_many: str = "") -> None:
        self.reasons.setdefault((name, what), f"{name} {what}{how_many and f', {how_many}'}")

    def _counts(self, rows: int) -> bool:
        return rows in (self.samples, 2 * self.samples)  # or two views of each sample


def _leaves_out(target: Any, label: Any) -> bool:
    is_labels = isinstance(target, Tensor) and not target.is_floating_point()
    return is_labels and bool((target == label).any())  # once a fit a device may be waited for


def _rows(predicted: Tensor) -> int:
    return predicted.shape[0] if predicted.dim() else 0


def _of_parameters(args: Any) -> bool:
    return any(isinstance(value, nn.Parameter) for value in args)


def is_compiled(module: nn.Module) -> bool:
    """Whether a compiler would have to look at the calls too, and would compile for that anew."""
    return any(
        getattr(part, "_compiled_call_impl", None) is not None or isinstance(part, torch._dynamo.OptimizedModule)
        for part in module.modules()
    )
