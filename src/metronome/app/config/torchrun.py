"""How many devices there are where torchrun has started the processes: it says so, and the configuration follows."""

import os
from collections.abc import Iterable
from typing import Any

from metronome.app.hosts.company import is_of_torchrun
from metronome.runs.overrides import key_and_value
from metronome.units import InputError


def follow_torchrun(flags: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put torchrun's numbers of processes and hosts in the place of the trainer's; does nothing without torchrun.

    Raises:
        InputError: if another number was typed, or the hosts do not have as many processes each.
    """
    if not is_of_torchrun():
        return
    on_each, hosts, size = (int(os.environ.get(f"{name}WORLD_SIZE", 1)) for name in ("LOCAL_", "GROUP_", ""))
    if on_each * hosts != size:
        raise InputError(
            f"torchrun has started {size} processes on {hosts} hosts, not as many on each; give each of them the same "
            "--nproc-per-node"
        )
    typed = {key_and_value(override)[0] for override in overrides}
    for key, option, there in (("devices", "--nproc-per-node", on_each), ("num_nodes", "--nnodes", hosts)):
        given = flags.get(key)
        if f"trainer.{key}" in typed and str(given) not in (str(there), "auto", "-1"):
            raise InputError(
                f"trainer.{key}={given}, and torchrun was started with {option} {there}; leave out trainer.{key}, "
                "which follows torchrun"
            )
        flags[key] = there
