"""Durations in the steps of a run, and steps in the unit of a duration."""

from fractions import Fraction

from metronome.units import Duration, InputError, Plan


def steps_of(plan: Plan | None, name: str, duration: str | Duration) -> int:
    """A duration in steps; without a plan, one that is given in them."""
    if plan is not None:
        return plan.steps(duration)
    length = Duration.parse(duration)
    if length.unit != "steps" and length.value:
        raise InputError(f"scheduler.{name}={duration} needs training data of a known length; give it in steps")
    return int(length.value)


def total_steps_of(name: str, plan: Plan) -> int:
    """The number of steps in the run. Raises InputError where it has no end, or no step."""
    if plan.total_steps is None:
        raise InputError(f"scheduler={name} must know the end; give the budget in epochs, steps or samples")
    if plan.total_steps == 0:
        raise InputError("the training has no step; give a budget and limit_train_batches of 1 or more")
    return plan.total_steps


def position(plan: Plan | None, step: int, duration: Duration) -> Fraction:
    """So many epochs, steps or samples, in the unit of the duration, are done after so many steps: exact."""
    if plan is None or duration.unit not in ("epochs", "samples"):
        return Fraction(step)
    done = Fraction(0)
    for epoch, count in plan.series.stretches():
        if epoch.steps == 0:
            break  # limit_train_batches=0: nothing is ever done
        whole = step // epoch.steps if count is None else min(count, step // epoch.steps)
        step -= whole * epoch.steps
        done += whole * (1 if duration.unit == "epochs" else epoch.samples)
        if whole != count:
            part = Fraction(step, epoch.steps) if duration.unit == "epochs" else step * epoch.batch_size
            return done + part
    return done
