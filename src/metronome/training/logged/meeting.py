"""All devices come to where an epoch's values are brought together; one that comes alone says what it waits for."""

import itertools
import logging
import time
from collections.abc import Iterable

from torch.distributed import distributed_c10d, is_initialized

log = logging.getLogger("metronome.training")

SECONDS = 10.0  # after which it is said

_meetings = itertools.count()


def meet(devices: int, keys: Iterable[str]) -> None:
    """Wait until all devices are here. Until then nothing is sent, which another device would take for something else.

    Args:
        devices: as many as are to come.
        keys: of the values that this device brings, for the line.
    """
    if not is_initialized():
        return
    store, name = distributed_c10d._get_default_store(), f"metronome/meeting/{next(_meetings)}"
    here, began, has_said, pause = store.add(name, 1), time.monotonic(), False, 1e-4
    while here < devices:
        time.sleep(pause)
        pause, here = min(2 * pause, 0.01), store.add(name, 0)
        if not has_said and time.monotonic() - began > SECONDS:
            has_said = True
            log.warning(
                "this device has waited for %g s for the values that the others have logged (here: %s): if it asks for "
                "them, in trainer.callback_metrics say, the others must ask in the same hook; what one device logs and "
                "reads alone needs self.log(..., rank_zero_only=True)", SECONDS, ", ".join(sorted(keys)) or "nothing",
            )  # fmt: skip
