"""Rules on the batch: against the noise of the gradient, and what sees a batch that is too small or too noisy."""

from math import inf

from metronome.advice.advice import NOTE, POOR, SLOW, Advice
from metronome.advice.facts import Facts
from metronome.advice.flags import batch_flags, joined, length_flag, power_of_two
from metronome.runs.nested import dig

FAR = 4.0  # times the noise scale that a batch is far from it
TINY_LAST = 0.25  # of a batch
SMALL_FOR_NORMS = 8  # samples


def batch_too_small(facts: Facts) -> Advice | None:
    """A batch far below the noise scale: a larger one saves nearly as many steps as it is larger.

    To the same loss, S = S_min (1 + B_noise/B) steps and E = E_min (1 + B/B_noise) samples (McCandlish et al. 2018,
    arXiv 1812.06162, equations 2.11 and 2.12). The batch advised is half the noise scale.
    """
    size, scale = facts.batch_size, facts.gradients.noise_scale
    if size is None or scale is None or facts.batch_grows or facts.samples is None:
        return None
    if facts.optimizer in ("rprop", "lbfgs") or scale.low < FAR * size or scale.value == inf:
        return None  # of a training that has come to rest no gradient is left, and any batch is below its noise
    noise = min(scale.value, facts.samples)
    larger = power_of_two(noise / 2, facts.samples / 8)
    if larger < 2 * size:
        return None
    steps, samples = (1 + noise / larger) / (1 + noise / size), (1 + larger / noise) / (1 + size / noise)
    in_steps = _is_in_steps(facts)
    return Advice(
        "the batch is far below the noise scale",
        f"batches of {size:,} samples, noise scale {_range(scale)}",
        f"batches of {larger:,}, with the rate for it: the same loss in {steps:.2g} times the steps, {samples:.2g} "
        "times the samples; faster where a larger step takes hardly longer",
        joined(batch_flags(facts, larger, noise), length_flag(facts, steps if in_steps else samples)),
        POOR - 10,
    )


def batch_too_large(facts: Facts) -> Advice | None:
    """A batch far above the noise scale: most of its samples say what the others have said. Source as above; the batch
    advised is the noise scale."""
    size, scale = facts.batch_size, facts.gradients.noise_scale
    if size is None or scale is None or facts.batch_grows or facts.optimizer in ("rprop", "lbfgs"):
        return None
    if size < FAR * scale.high:
        return None
    smaller = max(power_of_two(scale.value, size / 2), facts.devices)
    if smaller > size / 2:
        return None
    steps = (1 + scale.value / smaller) / (1 + scale.value / size)
    samples = (1 + smaller / scale.value) / (1 + size / scale.value)
    return Advice(
        "the batch is far above the noise scale",
        f"batches of {size:,} samples, noise scale {_range(scale)}",
        f"batches of {smaller:,}, with the rate for it: the same loss after {samples:.2g} times the samples, in "
        f"{steps:.2g} times the steps",
        joined(batch_flags(facts, smaller, scale.value), _uncut(facts, smaller)),
        POOR - 20,
    )


def signs_of_noise(facts: Facts) -> Advice | None:
    """Rprop goes by signs and L-BFGS by differences of gradients, which batches make noise of: Riedmiller & Braun
    (1993) and Liu & Nocedal (1989) are for the whole training set; on mini-batches RMSprop is what Rprop would be
    (Hinton's lecture 6e, 2012)."""
    names = {"rprop": "Rprop", "lbfgs": "L-BFGS"}
    if facts.optimizer not in names or not facts.is_over_mini_batches:
        return None
    return Advice(
        f"{names[facts.optimizer]} on mini-batches",
        f"batches of {facts.batch_size:,} of {facts.samples:,} samples",
        "it compares gradients from step to step, so each step must see all samples; or take optimizer=adam",
        joined(
            "data.batch_size=full",
            _uncut(facts, facts.samples or 1),
            # As many steps, which are all that counts: each is of an epoch now.
            "" if _is_in_steps(facts) else length_flag(facts, facts.samples / facts.batch_size),  # pyright: ignore
        ),
        POOR + 20,
    )


def norms_of_few(facts: Facts) -> Advice | None:
    """BatchNorm's statistics are of a micro-batch: below some 8 samples they are mostly noise (Wu & He 2018, arXiv
    1803.08494, figure 1)."""
    micro = facts.micro_batch_size
    if not facts.watched.get("batch_norm") or micro is None or micro >= SMALL_FOR_NORMS or facts.batch_size is None:
        return None
    share = facts.batch_size // facts.devices
    if facts.accumulate > 1 and share >= SMALL_FOR_NORMS:
        pieces = max(1, share // (2 * SMALL_FOR_NORMS))
        flags = f"trainer.accumulate_grad_batches={pieces}"
        words = "fewer, larger micro-batches; the batch of a step stays"
    else:
        flags = batch_flags(facts, 2 * SMALL_FOR_NORMS * facts.devices * facts.accumulate, 1e9)
        words = "larger batches, or GroupNorm in place of BatchNorm"
    return Advice(
        "BatchNorm on micro-batches of few samples", f"micro-batches of {micro} samples", words, flags, POOR + 10
    )


def tiny_last_batch(facts: Facts) -> Advice | None:
    """The last batch of an epoch is a step as long as any other, and of fewer samples, so noisier: in an epoch of few
    steps that counts. Goyal et al. (2017), arXiv 1706.02677, section 2: a step is for a batch of one size."""
    size, samples = facts.batch_size, facts.samples
    if not size or not samples or facts.batch_grows or dig(facts.config, "data.drop_last"):
        return None
    last = samples % size
    steps = -(-samples // size)
    if not last or last > TINY_LAST * size or not 2 <= steps <= 20 or size < 8:
        return None
    return Advice(
        "the last batch of an epoch is tiny",
        f"{last} samples after {steps - 1} of {size}: {1 / steps:.0%} of the steps, {last / samples:.1%} of samples",
        "leave it out: shuffling gives its samples to other batches in the next epoch",
        "data.drop_last=true",
        NOTE + 20,
    )


def uneven_devices(facts: Facts) -> Advice | None:
    """All devices wait for the one with most samples, or that waits longest for its data."""
    size, devices = facts.batch_size, facts.devices
    if devices < 2 or not size:
        return None
    waits = [w for w in facts.watched.get("data_ms_of_devices") or [] if isinstance(w, int | float)]
    step = sum(facts.step_ms.values())
    if len(waits) == devices and step and max(waits) - min(waits) > 0.2 * step:
        return Advice(
            "one device waits for its data longer than others",
            f"{min(waits):.3g} to {max(waits):.3g} ms of steps of {step:.3g}",
            "see what else that device's processes, disk or network do",
            "",
            SLOW + 30,
        )
    largest, mean = -(-size // devices), size / devices
    if largest < 1.1 * mean:
        return None
    even = max(devices, round(size / devices) * devices)
    return Advice(
        "devices have unequal shares of a batch",
        f"{size} samples on {devices} devices: {largest} on some, {size // devices} on others",
        "a batch that the number of devices divides",
        f"data.batch_size={even}",
        SLOW + 10,
    )


def _range(scale: object) -> str:
    low, value, high = (getattr(scale, name) for name in ("low", "value", "high"))
    above = f"to {high:,.0f}" if high < 1e6 else "or more"
    return f"{value:,.0f} ({low:,.0f} {above})" if value < 1e6 else f"{low:,.0f} or more"


def _is_in_steps(facts: Facts) -> bool:
    """Whether the length of the training is given in steps."""
    budget = dig(facts.config, "budget")
    return "step" in str(budget) if budget is not None else (dig(facts.config, "trainer.max_steps") or -1) > 0


def _uncut(facts: Facts, size: int) -> str:
    """Where accumulation cuts a batch into more pieces than the other one has samples."""
    return "trainer.accumulate_grad_batches=1" if facts.accumulate * facts.devices > size else ""
