"""The books of a run that goes on with other options of its checkpoints."""

import logging
from ast import literal_eval
from collections.abc import Iterable
from typing import Any

from metronome.training.checkpoints.callback import Checkpoint

log = logging.getLogger("metronome.training")

# What a checkpoint keeps of the best ones, where there are none yet.
_NO_BEST = {"best_k_models": {}, "kth_best_model_path": "", "best_model_path": "", "best_model_score": None,
            "current_score": None}  # fmt: skip


def hand_over(states: dict[str, Any], callbacks: Iterable[Any]) -> None:
    """What a checkpoint has of a `Checkpoint` with other options goes to the one that has taken its place: the
    last checkpoint, and the best, unless it was the best by another metric, or the worst; then it counts anew.

    Args:
        states: of the checkpoint's callbacks; changed.
        callbacks: those of the training that goes on.
    """
    all_ours = [callback for callback in callbacks if type(callback) is Checkpoint]
    known = {callback.state_key for callback in all_ours}
    ours = [callback for callback in all_ours if callback.state_key not in states]
    theirs = [key for key in states if str(key).startswith(f"{Checkpoint.__name__}{{") and key not in known]
    if len(ours) != 1 or len(theirs) != 1:
        return  # none has changed, or which is which cannot be told
    here, there = (_best_by(key) for key in (ours[0].state_key, theirs[0]))
    state = states.pop(theirs[0])
    states[ours[0].state_key] = state if here == there else state | _NO_BEST | {"kth_value": ours[0].kth_value}
    if here != there:
        log.warning("the best counts anew: by %s, before by %s", here, there)


def _best_by(state_key: str) -> str:
    options = literal_eval(state_key.removeprefix(Checkpoint.__name__))
    if options["monitor"] is None:
        return "no metric"
    return f"the {'highest' if options['mode'] == 'max' else 'lowest'} {options['monitor']}"
