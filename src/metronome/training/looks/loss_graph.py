"""What the graph of a loss says about it: is it a mean over samples, worked out by hand or not?

Only names, shapes and numbers of a graph are read, and none of the larger tensors that it holds: those may be on
another device, or would have to be computed again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

_MOST = 20_000  # nodes that are looked at
_FEW, _SOME = 24, 300
# A mean over samples stays one through these.
_LINEAR = {"Add", "Sub", "Rsub", "Neg", "Clone", "View", "UnsafeView", "ReshapeAlias", "ToCopy", "Squeeze", "Unsqueeze",
           "Stack", "Cat", "Expand", "Alias", "T", "Permute", "Transpose"}  # fmt: skip
_STRAIGHT = {*_LINEAR, "Mul", "Div", "Sum", "Nansum", "Mean"}
_BENDS = {"Sqrt", "Rsqrt", "Log", "Log1P", "Log2", "Log10", "Pow", "Exp", "Expm1", "Tanh", "Sigmoid", "Softplus",
          "Clamp", "ClampMin", "ClampMax", "Relu", "Abs", "LinalgVectorNorm", "Norm", "Max", "Min", "Amax", "Amin", 
          "Median", "Prod", "Std", "Var", "Logsumexp", "Reciprocal", "Maximum", "Minimum"}  # fmt: skip
_PICKS = {"Select", "Unbind", "Index", "MaskedSelect", "Slice", "Split", "SplitWithSizes", "Gather", "IndexSelect"}
_JOINS = {"Softmax", "LogSoftmax", "Logsumexp", "Logcumsumexp", "Cumsum", "Cumprod", "Sort", "Topk", "Max", "Min",
          "Amax", "Amin", "Median", "Std", "Var", "Mean", "Sum", "LinalgVectorNorm", "Norm", "Roll", "Flip",
          "Prod"}  # fmt: skip
_PRODUCTS = {"Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Linear", "Embedding", "Convolution"}
_BATCH_NORMS = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"}
_MOVES = {"Roll", "Flip"}  # samples, whose graph says dims, and a roll of all elements says none


class LossGraph:
    """Why the loss of a micro-batch is no mean over its samples, as far as its graph tells.

    Args:
        loss: as `training_step` has returned it, with its graph.
        samples: in the micro-batch.
        norms: whether BatchNorm may be in it: somebody else says so.

    Attributes:
        reasons: found, one for each call and kind, as those of LossCalls.
        couples: whether samples are compared or mixed, which no weight can mend.
    """

    def __init__(self, loss: Tensor, samples: int, norms: bool = False) -> None:
        self.samples, self.couples, self._norms = samples, False, norms
        self.reasons: dict[tuple[str, str], str] = {}
        self._straight = set[Any]()  # what the loss is a sum of
        if loss.grad_fn is not None and samples > 1:
            self._down(loss.grad_fn)
            self._look_for_joins(loss.grad_fn)

    def _down(self, start: Any) -> None:
        """From the loss to where it is reduced over samples, on all ways."""
        todo, seen = [(start, ())], {start}
        while todo and len(seen) < _MOST:
            node, divisors = todo.pop()
            name, below, over = _name(node), _below(node), divisors
            if name in _STRAIGHT:
                self._straight.add(node)
            nodes = list[Any]()
            if name in _LINEAR:
                nodes = below
            elif name in ("Mul", "Div"):
                nodes = [n for n in below if len(below) == 1 or self._sees_samples(n)]
                if len(nodes) > 1:
                    self._note(name.lower(), "takes two means over samples, or sums, that differ in each piece")
                over = divisors + _divisors(node, name)
            elif name in ("Sum", "Nansum", "Mean"):
                sizes = _sizes(node)
                is_divided = any(self._is_count(divisor, _number(sizes)) for divisor in divisors)
                if self._is_of_samples(sizes):
                    if name != "Mean" and not is_divided and _over_first(node, sizes) and not _of_parameters(below):
                        self._note(name.lower(), "is a sum")
                elif sizes and _number(sizes) % self.samples and not is_divided and _picked(node):
                    what = "is a mean over rows" if name == "Mean" else "is a sum over rows"
                    self._note(name.lower(), what, f"{_number(sizes):,} of {self.samples:,} samples")
                else:
                    nodes = below
            elif name in _BENDS and not self._is_of_samples(_out(node)) and any(map(self._sees_samples, below)):
                self._note(_said(name), "is taken of all samples together")
            todo += [(n, over) for n in nodes if n not in seen]
            seen.update(nodes)

    def _look_for_joins(self, start: Any) -> None:
        for node in _nodes(start, _MOST):
            name = _name(node)
            if node not in self._straight and name in _JOINS:
                sizes, below = _sizes(node) or _out(node), _below(node)
                is_moved = name in _MOVES and getattr(node, "_saved_dims", (0,)) == ()
                is_of_samples = sizes[:1] == (self.samples,) and not _of_parameters(below)
                if is_of_samples and not is_moved and _over_first(node, sizes):
                    self._note(_said(name), "is taken over samples", couples=True)
            elif name in _BATCH_NORMS and not self._norms and getattr(node, "_saved_training", True):
                is_over_samples = _out(node)[:1] == (self.samples,)  # InstanceNorm takes them all for one
                self.couples = self.couples or is_over_samples
                if is_over_samples:
                    self._note("batch_norm", "is taken over samples")

    def _sees_samples(self, start: Any) -> bool:
        """Whether something that has a row for each sample goes into it, unless it takes out single ones."""
        return any(
            self._is_of_samples(_out(node)) and not _of_parameters([node]) for node in _nodes(start, 1_000, _PICKS)
        )

    def _is_of_samples(self, sizes: Sequence[int]) -> bool:
        return bool(sizes) and sizes[0] > 0 and sizes[0] % self.samples == 0

    def _is_count(self, divisor: float, values: int) -> bool:
        """Whether that is a number of samples, or of values of them, and none that only looks like it."""
        count = round(divisor)
        is_whole = count > 0 and abs(divisor - count) < 1e-3
        return is_whole and count % self.samples == 0 and (values % count == 0 or count % max(1, values) == 0)

    def _note(self, name: str, what: str, how_many: str = "", couples: bool = False) -> None:
        self.reasons.setdefault((name, what), f"{name} {what}{how_many and f', {how_many}'}")
        self.couples = self.couples or couples


def _name(node: Any) -> str:
    return node.name().partition("Backward")[0]


def _said(name: str) -> str:
    return "norm" if name == "LinalgVectorNorm" else name.lower()


def _divisors(node: Any, name: str) -> tuple[float, ...]:
    """The number that something is divided by."""
    values = [getattr(node, place, None) for place in ("_saved_other", "_saved_self")[: 1 + (name == "Mul")]]
    found = [float(value) for value in values if isinstance(value, Tensor) and value.ndim == 0 and value != 0]
    return tuple(1 / value if name == "Mul" else value for value in found)


def _below(node: Any) -> list[Any]:
    return [n for n, _ in node.next_functions if n is not None]


def _out(node: Any) -> tuple[int, ...]:
    """The shape of what it has computed."""
    known = getattr(node, "_input_metadata", ())
    return tuple(known[0].shape) if known and hasattr(known[0], "shape") else ()


def _sizes(node: Any) -> tuple[int, ...]:
    """The shape of what it was given."""
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    below = _below(node)
    return tuple(sizes) if sizes is not None else _out(below[0]) if below else ()


def _over_first(node: Any, sizes: Sequence[int]) -> bool:
    dims = getattr(node, "_saved_dim", getattr(node, "_saved_dims", None))
    if dims is None or dims == ():
        return True
    return any(d in (0, -len(sizes), 2**64 - len(sizes)) for d in ((dims,) if isinstance(dims, int) else dims))


def _number(sizes: Sequence[int]) -> int:
    number = 1
    for size in sizes:
        number *= size
    return number


def _picked(node: Any) -> bool:
    """Whether single rows or values have been taken out just before."""
    return any(_name(n) in ("Index", "MaskedSelect", "Gather", "IndexSelect") for n in _nodes(node, _FEW))


def _of_parameters(starts: Sequence[Any]) -> bool:
    """Whether it is computed from weights alone: nothing without a gradient has given it its shape."""
    for start in starts:
        found = list(_nodes(start, _SOME))
        if len(found) >= _SOME or not any(hasattr(n, "variable") for n in found):
            return False
        for node in found:
            has_others = any(n is None for n, _ in node.next_functions)
            if has_others and (_name(node) in _PRODUCTS or _out(node) not in map(_out, _below(node))):
                return False
    return True


def _nodes(start: Any, most: int, not_below: Any = ()) -> Iterator[Any]:
    seen, todo = {start}, [start]
    while todo and len(seen) <= most:
        node = todo.pop(0)
        yield node
        if _name(node) not in not_below:
            for below in _below(node):
                if below not in seen:
                    seen.add(below)
                    todo.append(below)
