"""Rules on the learning rate: what is not finite, what never settles, what hardly moves."""

from itertools import pairwise
from statistics import fmean

from metronome.advice.advice import LOST, POOR, Advice
from metronome.advice.facts import Facts, number
from metronome.advice.flags import batch_flags, joined, lr_flag, power_of_two

ROUGH = 0.15  # of its level that the loss moves from one validation to the next
LONG = 8.0  # times its length that the best step has, where the rate is too small
# Standard deviations of a step's loss at the end, above it. In half of all trainings of 10,000 steps the
# highest of squares of normal numbers, one a batch, is 10 of these above their mean; of means of 32 of them 5.
JUMP, JUMP_OF_MANY, MANY = 10.0, 5.0, 32
BACK = 0.75  # of the first loss: a training that ends below it has learnt something after all
FEW = 10  # steps, of which one batch may be that much harder than another
BELOW_NOISE = 2.0  # times the batch that the noise scale must have, for a bigger one to be the remedy


def diverged(facts: Facts) -> Advice | None:
    """A loss or gradient that is not finite. Beyond 2/curvature each step of gradient descent grows the error (Bottou,
    Curtis & Nocedal 2018, arXiv 1606.04838, section 4): a lower rate, or a warm-up where it happens early."""
    found = facts.result.get("nonfinite")
    if not isinstance(found, list) or not found:
        return None
    first = found[0] if isinstance(found[0], dict) else {}
    step = int(number(first.get("step")) or 0)
    skipped = facts.result.get("status") == "finished"
    rate = number(first.get("learning_rate"))
    early = step <= max(10, facts.steps // 20)
    fell_before = _fell_before(facts)
    more = f"; {len(found):,} such steps" if len(found) > 1 else ""
    words = "a lower rate" + (", with a warm-up" if early and not fell_before else ", or clipped gradients")
    clip = "" if facts.config.get("trainer", {}).get("gradient_clip_val") else "trainer.gradient_clip_val=1"
    return Advice(
        "the loss diverged" if not skipped else "steps were not finite",
        f"not finite in step {step:,} (loss {first.get('loss')}, rate {rate:.3g}){more}"
        if rate is not None
        else f"not finite in step {step:,} (loss {first.get('loss')}){more}",
        words + "; the step's samples are in result.json, nonfinite, to see whether one of them is the cause",
        joined(
            lr_flag(facts, 0.5 if skipped else min(0.1, 1 / facts.lr) if facts.lr else 0.1), clip if fell_before else ""
        ),
        LOST if not skipped else POOR + 60,
    )


def _fell_before(facts: Facts) -> bool:
    first = facts.first_loss
    return bool(facts.train and first and facts.train[-1] < 0.7 * first)


def never_came_back(facts: Facts) -> Advice | None:
    """The loss jumped away from where it began, and ends hardly better than there. A first step beyond what the
    curvature bears throws a network to where its units are dead or saturated, without a number that is not finite
    (Lewkowycz et al. 2020, arXiv 2003.02218)."""
    first, highest = facts.first_loss, number(facts.watched.get("highest_loss"))
    if facts.is_diverged or first is None or highest is None or not facts.train or first <= 0:
        return None
    if facts.steps < FEW:
        return None
    if highest < 1.5 * first or facts.train[-1] < BACK * first:
        return None
    # That single batches differ is no jump, nor that the first one was easy.
    spread = facts.train_std[-1] if facts.train_std else first
    jump = JUMP_OF_MANY if (facts.batch_size or 0) >= MANY else JUMP
    if highest < max(first, facts.train[-1]) + jump * spread:
        return None
    return Advice(
        "the loss jumped away and hardly came back",
        f"{first:.3g} at first, up to {highest:.3g}, {facts.train[-1]:.3g} at the end",
        "a much lower rate",
        lr_flag(facts, 0.1),
        LOST - 10,
    )


def oscillates(facts: Facts) -> Advice | None:
    """The loss goes up and down from validation to validation. Steps that are too long for the curvature do that, and
    so does noise: where the batch is well below the noise scale a larger one takes it away at the same rate, else the
    rate is too high (McCandlish et al. 2018, equation 2.6: noise bounds the rate there, curvature here)."""
    moves = roughness(facts)
    if facts.is_diverged or moves is None or moves[0] < ROUGH or not facts.is_high:
        return None  # a loss that has come far down moves by parts of little
    rough, ups, count = moves
    scale, size = facts.gradients.noise_scale, facts.batch_size
    evidence = f"from one validation to the next it moves by {rough:.0%}, up in {ups} of {count}"
    if scale is not None and size and facts.samples and scale.low > BELOW_NOISE * size and not facts.batch_grows:
        larger = power_of_two(4 * size, min(scale.value, facts.samples))
        if larger >= 2 * size:
            return Advice(
                "the loss oscillates",
                f"{evidence}; the batch of {size:,} is below the noise scale of {scale}",
                f"it is noise: a bigger batch at the same rate, for {larger // size} times the samples a step; or a "
                "rate that falls to zero (scheduler=cosine)",
                batch_flags(facts, larger, 0.0),
                POOR + 40,
            )
    known = f"; the batch of {size:,} is not below the noise scale" if scale is not None and size else ""
    return Advice("the loss oscillates", evidence + known, "a lower rate", lr_flag(facts, 0.25), POOR + 40)


def roughness(facts: Facts) -> tuple[float, int, int] | None:
    """Of the validations after the first third: the mean move beside the trend, as a part of the level; ups; moves.

    None where there are too few, or the metric is none whose level is a scale (a loss above zero).
    """
    values = list(facts.val[len(facts.val) // 3 :]) if facts.val_is_low else []
    if len(values) < 5 or min(values) <= 0:
        return None
    moves = [b - a for a, b in pairwise(values)]
    trend = (values[-1] - values[0]) / len(moves)
    ups = sum(move > 0 for move in moves)
    if not 0.2 <= ups / len(moves) <= 0.8:
        return None
    return fmean(abs(move - trend) for move in moves) / fmean(values), ups, len(moves)


def rate_too_small(facts: Facts) -> Advice | None:
    """The loss would have been lowest many steps' lengths further on, also in the second half of the training.

    For SGD the best length is that of McCandlish et al. 2018, equation 2.6. The rate that is best in one step is rather
    below than above the one that is best in many (Wu et al. 2018, arXiv 1803.02021), so that one far below it is far
    from both. A quarter of the length is advised, and 30 at most, since the curvature that was measured is not that of
    other places (Cohen et al. 2021, arXiv 2103.00065).
    """
    length, first = facts.gradients.longest_step, facts.first_loss
    if length is None or length < LONG or facts.is_diverged or not facts.train or facts.lr is None:
        return None
    if facts.optimizer in ("rprop", "lbfgs") or (first and facts.train[-1] < 0.1 * first):
        return None
    if facts.rates and max(facts.rates) > 0:  # by a schedule the steps of the second half are shorter than the others
        length *= fmean(facts.rates[len(facts.rates) // 2 :]) / max(facts.rates)
    if length < LONG:
        return None
    factor = min(30.0, max(2.0, length / 4))
    return Advice(
        "the learning rate is far too small",
        f"with steps {length:,.0f} times as long, and more, the loss would have fallen faster",
        f"a rate {factor:.2g} times as high; look again then",
        lr_flag(facts, factor),
        POOR + 30,
    )
