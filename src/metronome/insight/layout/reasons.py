"""Why a batch that is cut gives another gradient than the whole one: each thing that can be held still is let go alone.

With all of them held, what is left is the loss itself: what it is of the losses of its parts is solved for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metronome.insight.layout.holds import ALL, Hold
from metronome.insight.layout.measure import Measure, Pass, difference
from metronome.insight.layout.parts import Kind, counted_as, kind_of
from metronome.training.looks.across_samples import backward_hooks, batch_norms, spectral_norms

_NAMES_SHOWN = 4


@dataclass(frozen=True)
class Tolerance:
    """Relative differences above these are real: of gradients; of what is solved for."""

    gradient: float
    solved: float


@dataclass(frozen=True)
class Reason:
    """What it is, in one word or two, and in a line that says what to do."""

    what: str
    line: str


def reasons(measure: Measure, whole: Pass, pieces: dict[int, Pass], tolerance: Tolerance) -> list[Reason]:
    """Why the passes in pieces, by their number, differ from those over the whole batch: they do, but if it is only by
    the rounding of what `loss_weight` computes in float32, that is no reason."""
    cut = max(pieces, key=lambda k: difference(pieces[k], whole))
    there = _there(measure, [whole, *pieces.values()])
    clean, factors, found, is_rounded = measure(1, ALL), None, list[Reason](), False
    if any(difference(measure(k, ALL), clean) > tolerance.gradient for k in pieces):
        cut, kind, factors = _solve(measure, clean, sorted({2, *pieces}), tolerance)
        weighs = measure(cut, ALL).factors
        is_rounded = bool(factors) and all(abs(f - w) < tolerance.solved for f, w in zip(factors, weighs, strict=True))
        if not is_rounded:
            found.append(_of_the_loss(measure, cut, kind, factors, tolerance))
        if not factors:  # then a difference has more than one reason, and none can be told by itself
            alone = measure(cut, ALL)
            return found + [
                _of_hold(hold, names) for hold, names in there.items()
                if hold not in (Hold.WEIGHTS, Hold.STATE, Hold.HOOK)
                or not difference(measure(cut, ALL - {hold}), alone) <= tolerance.gradient
            ]  # fmt: skip
    limit = tolerance.gradient if factors is None else tolerance.solved
    for hold, names in there.items():
        if difference(measure(cut, ALL - {hold}, factors), measure(1, ALL - {hold})) > limit:
            found.append(_of_hold(hold, names))
    if found or is_rounded:
        return found
    return [Reason("together", f"no one thing alone, but together: {', '.join(h.value for h in there)}")]


def _there(measure: Measure, passes: Sequence[Pass]) -> dict[Hold, list[str]]:
    """What there is to hold still in this module, each with the names of where it is."""
    names = {
        Hold.WEIGHTS: [name for made in passes for name in made.weights],
        Hold.STATE: [name for made in passes for name in made.state],
        Hold.BATCH_NORM: list(batch_norms(measure.module)),
        Hold.SPECTRAL_NORM: list(spectral_norms(measure.module)),
        Hold.HOOK: list(backward_hooks(measure.module)),
    }
    drawn = frozenset[Hold]().union(*(made.drawn for made in passes))
    there: dict[Hold, list[str]] = {hold: list(dict.fromkeys(found)) for hold, found in names.items() if found}
    return there | {hold: [] for hold in (Hold.DROPOUT, Hold.RANDOM) if hold in drawn}


def _solve(
    measure: Measure, clean: Pass, cuts: Sequence[int], tolerance: Tolerance
) -> tuple[int, Kind | None, list[float]]:
    """The coarsest cut that differs, what the loss is of its parts there, and their factors; None: a part has none."""
    for cut in cuts:
        made = measure(cut, ALL)
        if difference(made, clean) > tolerance.gradient:
            parts = measure.parts(cut, ALL)
            if all(part.is_finite for part in parts):
                return cut, *kind_of(clean, parts, tolerance.solved)
    return cuts[-1], None, []


def _of_the_loss(
    measure: Measure, cut: int, kind: Kind | None, factors: Sequence[float], tolerance: Tolerance
) -> Reason:
    match kind:
        case Kind.SUM:
            says = "the loss is a sum over samples and no mean; say so: def loss_weight(self, batch): return None"
        case Kind.MEAN:
            counted = counted_as(measure.micro_batches(cut), factors, tolerance.solved)
            says = (
                f"the loss is a mean over something else than it is weighed by: its {cut} parts count "
                f"{_listed(factors)} in it, and weigh {_listed(measure(cut, ALL).factors)}; say what it divides by: "
                f"def loss_weight(self, batch): return {counted or '... (tokens, labels, the sum of class weights)'}"
            )
        case Kind.SCALED:
            says = (
                f"the loss is neither a mean nor a sum: its {cut} parts count {_listed(factors)}; let it divide by "
                "what can be added up over parts, and return that in loss_weight(batch)"
            )
        case Kind.NOT_KNOWN:
            says = "the loss is no mean over samples, or looks across them: too few weights to tell which"
        case Kind.COUPLED:
            says = (
                "the loss, or a layer, looks across samples (contrastive, ranking, statistics of a batch), or adds up "
                "means over different things: no weights of its micro-batches' losses make the loss of the batch"
            )
        case None:
            says = (
                "the loss of a micro-batch is not finite, as where none of its labels is counted; say what the loss "
                "divides by in loss_weight(batch): what is empty weighs 0"
            )
    return Reason("not finite" if kind is None else kind.value, says)


def _of_hold(hold: Hold, names: Sequence[str]) -> Reason:
    where = ", ".join(names[:_NAMES_SHOWN]) + (f" and {len(names) - _NAMES_SHOWN} more" * (len(names) > _NAMES_SHOWN))
    lines = {
        Hold.WEIGHTS: f"training_step changes weights ({where}), for each micro-batch; do it in on_train_batch_end",
        Hold.STATE: f"state is carried from one micro-batch to the next ({where})",
        Hold.BATCH_NORM: f"BatchNorm ({where}) sees one micro-batch at a time; GroupNorm and LayerNorm see one sample",
        Hold.SPECTRAL_NORM: f"spectral norm ({where}) makes a step of its power iteration in each micro-batch",
        Hold.HOOK: f"on_after_backward ({where}) changes gradients, after each micro-batch; do it once a step, in "
        "on_before_optimizer_step",
        Hold.DROPOUT: "dropout draws its random numbers for each micro-batch: others, as good as those of the whole",
        Hold.RANDOM: "training_step draws random numbers, and does so for each micro-batch: others, as good as those",
    }
    return Reason(hold.value, lines[hold])


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
