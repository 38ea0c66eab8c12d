"""What a Trainer says of its arguments: Lightning's flags by name, so that LightningCLI and the environment can set
them."""

import inspect
from collections.abc import Callable
from typing import Any

import lightning as L

from metronome.training.lightning_private import defaults_from_environment


def with_lightnings_flags(init: Callable[..., None]) -> Any:
    """An `__init__` whose signature has each of Lightning's flags where it says `**flags`, with Lightning's defaults.

    A flag that is not given is looked for in the environment, as Lightning does: `PL_TRAINER_MAX_EPOCHS=3`.
    """
    given = list(inspect.signature(init).parameters.values())
    names = [parameter.name for parameter in given]
    theirs = inspect.signature(L.Trainer.__init__).parameters.values()
    own = [parameter for parameter in given if parameter.kind is not parameter.VAR_KEYWORD]
    wrapped: Any = defaults_from_environment(init)
    wrapped.__signature__ = inspect.Signature([*own, *(p for p in theirs if p.name not in names)])
    return wrapped
