"""Values of a wrong type are refused before anything is made, each by the key that it was typed for.

What a value may be stands where it goes to: in the annotations of the class or function that `_target_` names. Only
what is surely wrong is refused: a word for a number, a number for a list. What else is allowed the class itself knows.
"""

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Union, get_args, get_origin

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from metronome.app.errors.exits import past_hydra
from metronome.units import Duration, InputError

# The keys that no object is made of.
_TOP: dict[str, Any] = {
    "seed": int,
    "num_threads": int | None,
    "budget": str | Duration | None,
    "name": str | None,
    "tags": list[str] | None,
    "test": bool,
    "test_train_set": bool,
}
_OWN_WORDS = ("lr",)  # a module may take a word for it (optimizer.lr=best); what is neither is told as it is made
_MOST_LISTED = 8  # words
_NUMBERS = (int, float)
_PLAIN = (int, float, bool, str, Path, types.NoneType)


class CheckTypes(Callback):
    """Before Hydra makes the folder of a run. The jobs of a sweep are checked as each begins."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with past_hydra():
            check_types(config)


def check_types(config: DictConfig) -> None:
    """Raises InputError for the first value in a composed configuration that is of a wrong type."""
    for key, hint in _TOP.items():
        if key in config and (value := _value(config, key)) is not _UNKNOWN:
            _check(key, value, hint)
    for group in config:
        if group != "hydra":
            _check_within(config, group, str(group))


def _check_within(parent: DictConfig | ListConfig, key: Any, where: str) -> None:
    """Check all that lies below a key. What only refers to another place is looked at there."""
    node = _value(parent, key)
    if not OmegaConf.is_config(node) or OmegaConf.is_interpolation(parent, key):
        return
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    parameters = _parameters(_value(node, "_target_")) if isinstance(node, DictConfig) and "_target_" in node else {}
    for name in keys:
        parameter = parameters.get(str(name))
        value = _UNKNOWN if parameter is None else _value(node, name)
        if parameter is not None and value is not _UNKNOWN and not _is_default(value, parameter.default):
            key = _typed_at(node, name) or f"{where}.{name}"
            _check(key, value, parameter.annotation, _is_from_outside(node, name))
    for name in keys:
        _check_within(node, name, f"{where}.{name}")


_UNKNOWN = object()


def _is_default(value: Any, default: Any) -> bool:
    """Whether it is what would be taken anyway, whatever the annotation says: `lr: float = "auto"`."""
    return type(value) is type(default) and (value is None or (isinstance(value, _PLAIN) and value == default))


def _value(parent: Any, key: Any) -> Any:
    """A value, with `${...}` put in; `_UNKNOWN` where that cannot be done (yet): the folder of a run is not there."""
    try:
        value = parent[key]
        return _UNKNOWN if value is None and OmegaConf.is_interpolation(parent, key) else value
    except Exception:  # a resolver may fail in any way; whoever needs the value says so
        return _UNKNOWN


def _typed_at(parent: Any, key: Any) -> str | None:
    """Of a value that is another key's the name of that key: where it was typed."""
    raw = OmegaConf.to_container(parent, resolve=False)[key]  # pyright: ignore
    found = re.fullmatch(r"\$\{([a-z_]\w*(?:\.\w+)*)\}", raw) if isinstance(raw, str) else None
    return found[1] if found else None


def _is_from_outside(parent: Any, key: Any) -> bool:
    """Whether it is read from the environment, where all is text."""
    return "${oc.env:" in str(OmegaConf.to_container(parent, resolve=False)[key])  # pyright: ignore


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of what a `_target_` names; none where it is not there, or does not say.

    What a class hands on as `**options` is looked up in its bases.
    """
    found: dict[str, inspect.Parameter] = {}
    try:
        made = resolve_name(target)  # Hydra's get_object logs what it does not find
        for part in (made, *inspect.getmro(made)[1:]) if isinstance(made, type) else (made,):
            if part is not made and "__init__" not in vars(part):
                continue
            parameters = inspect.signature(part, eval_str=True).parameters
            found |= {name: parameter for name, parameter in parameters.items() if name not in found}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    except Exception:  # its import may fail in any way; whoever makes it finds out
        pass
    return {
        name: parameter
        for name, parameter in found.items()
        if parameter.annotation is not parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in _OWN_WORDS
    }


# ---- one value ------------------------------------------------------------------------------------------


def _check(key: str, value: Any, hint: Any, from_outside: bool = False) -> None:
    alternatives = list(_alternatives(hint))
    if Duration in alternatives and isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            Duration.parse(value)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error
        return
    if sum(len(get_args(part)) for part in alternatives if get_origin(part) is Literal) > _MOST_LISTED:
        return  # of so many words only their owner knows which to show
    if not _fits_one(value, alternatives):
        how = ", but text; write ${oc.decode:${oc.env:...}}" if from_outside else _write(key, value, alternatives)
        raise InputError(f"{key}={_shown(value)} {_is_not(alternatives)}{how}")


def _alternatives(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _alternatives(part)
    elif get_origin(hint) is typing.Annotated:
        yield from _alternatives(get_args(hint)[0])
    else:
        yield types.NoneType if hint is None else hint


def _fits_one(value: Any, hints: Sequence[Any]) -> bool:
    if Duration in hints and isinstance(value, str):
        try:
            return bool(Duration.parse(value))
        except InputError:
            return False
    if isinstance(value, _NUMBERS) and not isinstance(value, bool) and (str in hints or Path in hints):
        return True  # a name may be a number: YAML makes one of 2026
    return any(_fits(value, hint) for hint in hints)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be what is asked for; yes, where that cannot be known."""
    if isinstance(value, DictConfig):  # an object to be made, or a mapping
        return "_target_" in value or (hint not in _PLAIN and not _is_list(hint))
    if hint is bool:
        return isinstance(value, bool)
    if hint in _NUMBERS:
        return isinstance(value, int if hint is int else _NUMBERS) and not isinstance(value, bool)
    if hint in _PLAIN:
        return isinstance(value, str if hint is Path else hint)
    if get_origin(hint) is Literal:  # what is no plain value there, one of an Enum, cannot be typed
        return any(word == value if isinstance(word, _PLAIN) else True for word in get_args(hint))
    if _is_list(hint):
        inner = list(_alternatives(_inner(hint)))
        return isinstance(value, ListConfig) and all(_fits_one(item, inner) for item in value)
    # No plain value is one of these; of other classes who knows.
    return not (_is_mapping(hint) or hint is Duration or _is_tensor(hint))


def _is_list(hint: Any) -> bool:
    return (get_origin(hint) or hint) in (list, tuple, set, Sequence, Iterable)


def _is_mapping(hint: Any) -> bool:
    return (get_origin(hint) or hint) in (dict, Mapping)


def _is_tensor(hint: Any) -> bool:
    return getattr(hint, "__name__", "") == "Tensor"  # torch is not loaded for it


def _inner(hint: Any) -> Any:
    """What the entries of a list may be."""
    inner = [part for part in get_args(hint) if part is not Ellipsis]
    return Union[tuple(inner)] if inner else Any  # noqa: UP007


# ---- words ----------------------------------------------------------------------------------------------


def _is_not(alternatives: list[Any]) -> str:
    if alternatives == [bool]:
        return "is neither true nor false"
    hints = [hint for hint in alternatives if not (hint is int and float in alternatives)]
    found = [word for hint in hints if hint is not types.NoneType for word in _words(hint)]
    words: list[str] = list(dict.fromkeys([*found, *(["null"] if types.NoneType in hints else [])]))
    return f"is not {' or '.join(filter(None, [', '.join(words[:-1]), words[-1]]))}"


def _words(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    if _is_list(hint):
        parts = list(_alternatives(_inner(hint)))
        inner = dict.fromkeys(
            word for part in parts if (word := _plural(part)) and (part is not str or Duration not in parts)
        )
        return [f"a list of {' or '.join(inner) or 'values'}"]
    if _is_mapping(hint):
        return ["a table of keys and values"]
    words: dict[Any, list[str]] = {
        bool: ["true", "false"], int: ["a whole number"], float: ["a number"], str: ["text"], Path: ["a path"],
    }  # fmt: skip
    return words.get(hint, ["a tensor"] if _is_tensor(hint) else [getattr(hint, "__name__", str(hint))])


def _plural(hint: Any) -> str:
    words = {int: "whole numbers", float: "numbers", bool: "true or false", str: "words", Duration: "durations"}
    return "tensors" if _is_tensor(hint) else words.get(hint, "")


def _write(key: str, value: Any, alternatives: list[Any]) -> str:
    """What to type instead, where that is plain."""
    if int in alternatives and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    literals = [word for hint in alternatives if get_origin(hint) is Literal for word in get_args(hint)]
    if isinstance(value, _NUMBERS) and (word := _in_yaml(value)) in literals:
        return f", but a number or a truth value; write {key}=\"'{word}'\""
    if any(number in alternatives for number in _NUMBERS) and isinstance(value, str):
        try:
            return f", but text: write it without quotes: {float(value):g}"
        except ValueError:
            return ""
    if any(map(_is_list, alternatives)) and not isinstance(value, ListConfig | DictConfig):
        return f"; write [{value}]"
    return ""


def _in_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    return repr(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
