"""Rules on how long a training is, and on what its model can learn."""

from statistics import fmean

from metronome.advice.advice import LOST, POOR, Advice
from metronome.advice.facts import HIGH, Facts, number
from metronome.advice.flags import joined, length_flag
from metronome.runs.nested import dig

WORSE = 1.1  # times the best value, at the end of a training that over-fits
FALLS = 0.1  # of its level that the loss still falls in the last quarter
HALF = 0.5  # of the first loss, at the end of a training that learns little
TWICE = 2.0  # times the length that steps could have had


def over_fits(facts: Facts) -> Advice | None:
    """The best validation is long past, and the training loss went on falling: what is learnt since is the samples
    themselves (Prechelt 1998, Early Stopping - But When?)."""
    best = best_of(facts)
    if best is None or facts.result.get("stopped_early"):  # it has ended for just that
        return None
    at, value = best
    last = fmean(facts.val[-3:]) if len(facts.val) >= 6 else facts.val[-1]
    is_past = facts.val_steps[at] <= 0.7 * facts.val_steps[-1]
    falls = len(facts.train) == len(facts.val) and facts.train[-1] < 0.9 * facts.train[at]
    if not is_past or not falls or last < WORSE * value:
        return None
    part = facts.val_steps[at] / facts.val_steps[-1]
    return Advice(
        "over-fitting: the best epoch is long past",
        f"{facts.monitor} {value:.4g} in epoch {facts.val_epochs[at]}; {last:.4g} in {facts.val_epochs[-1]}",
        "end there, with the schedule for it; more data, weight decay, dropout or a smaller network for a better best",
        length_flag(facts, part, epochs=facts.val_epochs[at]),
        POOR,
    )


def still_falls(facts: Facts) -> Advice | None:
    """Training and validation loss are both still on their way at the end (Goodfellow, Bengio & Courville 2016, section
    11.4: first learn the training set)."""
    if facts.is_diverged or not facts.val_is_low or len(facts.val) < 2 or facts.val[-1] <= 0:
        return None
    if facts.result.get("status") != "finished":
        return None
    before, after = last_quarter(facts.val)
    fall = 1 - after / before if before > 0 else 0.0
    if fall < FALLS or min(facts.val) < 0.95 * facts.val[-1]:
        return None
    if len(facts.train) >= 2 and (both := last_quarter(facts.train))[1] > (1 - FALLS / 2) * both[0]:
        return None
    return Advice(
        "the loss is still falling at the end",
        f"{facts.monitor} fell by {fall:.0%} in the last quarter, to {facts.val[-1]:.4g}",
        "train twice as long",
        length_flag(facts, 2.0),
        POOR - 40,
    )


def learns_little(facts: Facts) -> Advice | None:
    """The training loss has come to rest high, and the validation's with it: the model cannot fit the samples that it
    is shown, or there is no more in them (Goodfellow, Bengio & Courville 2016, section 5.2). Said only where longer
    steps are seen not to pay: with a rate that is too small, or that a schedule has brought down, a loss rests, too."""
    if (facts.gradients.longest_step or 0.0) >= TWICE or not facts.gradients.longer_would_not_pay:
        return None
    first = facts.first_loss
    if (
        facts.is_diverged
        or first is None
        or first <= 0
        or len(facts.train) < 6
        or not facts.val
        or not facts.val_is_low
    ):
        return None
    end = fmean(facts.train[-3:])
    before, after = last_quarter(facts.train)
    rests = before - after < FALLS * (first - end)
    if not HIGH * first < end < 0.95 * first or not rests or min(facts.val) > 1.3 * end:
        return None
    flags, words = _larger(facts)
    return Advice(
        "under-fitting, or noise: the training loss rests high",
        f"training loss {first:.3g} at first, {end:.3g} at the end; {facts.monitor} {facts.val[-1]:.3g}",
        f"{words}; if nothing changes, the data say no more",
        flags,
        POOR - 30,
    )


def stays_high(facts: Facts) -> Advice | None:
    """The training loss has hardly come down, and nothing tells why: rate, length and model are tried in that order
    (Goodfellow, Bengio & Courville 2016, section 11.4.1: if there is time for one hyperparameter, tune the rate)."""
    first, length = facts.first_loss, facts.gradients.longest_step
    if facts.is_diverged or first is None or first <= 0 or len(facts.train) < 2:
        return None
    end = facts.train[-1]
    if end <= (HIGH if length is not None and length >= TWICE else HALF) * first:
        return None
    seen = f"; steps {length:.2g} times as long would have paid" if length is not None and length >= TWICE else ""
    return Advice(
        "the training loss stays high",
        f"{first:.3g} at first, {end:.3g} at the end{seen}",
        "the rate first: short trials find one; then a longer training, a larger network, or the data say no more",
        _finder(facts) if facts.lr is not None and facts.optimizer not in ("rprop", "lbfgs") else "",
        POOR - 45,
    )


def _finder(facts: Facts) -> str:
    used = dig(facts.config, "callbacks.lr_finder")
    if not used:
        return "callbacks=lr_finder"
    return "" if dig(facts.config, "callbacks.lr_finder.take") else "callbacks.lr_finder.take=true"


def failed(facts: Facts) -> Advice | None:
    """A run that an error has ended; one that was not finite has a rule of its own."""
    if facts.result.get("status") != "failed" or facts.result.get("nonfinite"):
        return None
    why = str(facts.result.get("error") or "no reason is known")
    return Advice("the run failed", why, "mend that, then the same command with resume=auto", "", LOST)


def best_of(facts: Facts) -> tuple[int, float] | None:
    """Where the monitored metric was best, and its value there; of losses above zero."""
    if len(facts.val) < 4 or not facts.val_is_low or min(facts.val) <= 0:
        return None
    value = min(facts.val)
    return list(facts.val).index(value), value


def last_quarter(values: object) -> tuple[float, float]:
    """The level before the last quarter, and at the end; means of three where there are many."""
    found: list[float] = list(values)  # pyright: ignore
    at = max(0, len(found) - 1 - max(1, len(found) // 4))
    if len(found) < 12:
        return found[at], found[-1]
    return fmean(found[at - 1 : at + 2]), fmean(found[-3:])


def _larger(facts: Facts) -> tuple[str, str]:
    """Flags for a network four times as wide, where its options say how wide it is."""
    network = dig(facts.config, "model.network") or {}
    for name in ("hidden", "channels", "width", "dim", "hidden_size", "d_model"):
        value = network.get(name)
        if isinstance(value, list) and value and all(number(v) for v in value):
            wide = ",".join(str(4 * v) for v in value)
            return joined(f"'model.network.{name}=[{wide}]'"), "a larger network"
        if isinstance(value, int) and not isinstance(value, bool):
            return f"model.network.{name}={4 * value}", "a larger network"
    return "", "a larger network"
