"""Overrides: the words in which a run was asked for."""

from collections.abc import Iterable
from contextlib import suppress

# Keys of those that say how to go on or where to, not what the run is.
GOING_ON = ("ckpt_path", "resume", "storage", "trials", "run_dir")
_HYDRA = ("hydra.", "hydra/")


def key_and_value(override: str) -> tuple[str, str]:
    """The key of an override, without the signs that add or remove it, and its value as it was typed, unquoted.

    >>> key_and_value("+experiment=digits"), key_and_value("budget='20 epochs'"), key_and_value("~logger")
    (('experiment', 'digits'), ('budget', '20 epochs'), ('logger', ''))
    """
    key, _, value = override.replace("\\", "").partition("=")  # in the jobs of a sweep Hydra escapes some letters
    return key.lstrip("+~"), value.strip("'\"")


def in_a_sweep(override: str) -> str:
    """An override as Hydra writes it into the jobs of a sweep.

    >>> in_a_sweep("test=false"), in_a_sweep("optimizer.lr=1e-3"), in_a_sweep("model.network.hidden=[8, 8]")
    ('test=False', 'optimizer.lr=0.001', 'model.network.hidden=[8,8]')
    """
    key, equals, value = override.partition("=")
    if value.lower() in ("true", "false"):
        value = value.capitalize()
    elif value.startswith("["):
        value = value.replace(" ", "")
    else:
        with suppress(ValueError):
            value = str(int(value) if value.lstrip("+-").isdecimal() else float(value))
    return f"{key}{equals}{value}"


def what_it_is(overrides: Iterable[str]) -> list[str]:
    """Overrides without those that only say how to go on, in the order of their letters.

    >>> what_it_is(["seed=1", "resume=auto", "hydra.verbose=true", "+experiment=digits"])
    ['+experiment=digits', 'seed=1']
    """
    return sorted(override for override in map(str, overrides) if not goes_on(override))


def goes_on(override: str) -> bool:
    """Whether an override only says how to go on."""
    key, _ = key_and_value(override)
    return key in GOING_ON or key.startswith(_HYDRA)
