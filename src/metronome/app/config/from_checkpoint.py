"""Objects made from the configuration in a checkpoint, as Hydra would make them, but of what is allowed only."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from metronome.app.config.allowed import (
    RULES,
    Rule,
    allowed_in_words,
    member,
    name_after_renaming,
    name_now,
    own_packages,
    package_to_allow,
    packages_of,
)
from metronome.app.config.places import asks, below, short
from metronome.app.errors.messages import one_line
from metronome.units import InputError

# What a configuration says about how to make an object, beside the arguments.
_OPTIONS = {"_target_": str, "_partial_": bool, "_args_": list, "_recursive_": bool}
_WORDS = {str: "a name", bool: "true or false", list: "a list"}


class Builder:
    """Makes what the configuration in a checkpoint describes, as Hydra would, but of what is allowed only.

    Every `_target_` in it is judged by its name before anything is imported, and found before anything is made.

    Args:
        parts: plain data, as `config_of` gives them, by name.
        path: the checkpoint, for words.
        allow: packages of which every class and function may be used too.
        hint: what to type to allow some packages.

    Raises:
        InputError: if something is asked for that is not allowed, or is not there.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        path: str | Path,
        allow: str | Iterable[str] = (),
        hint: Callable[[list[str]], str] = lambda packages: f"allow={packages}",
    ) -> None:
        self._parts, self._path, self._hint = parts, path, hint
        self._allow = packages_of(allow)
        own = (Rule(package) for package in own_packages())
        # The user's come first: they let more through.
        self._rules = (*(Rule(package, homes=tuple(self._allow)) for package in self._allow), *own, *RULES)
        wanted: dict[str, str] = {}
        for where, node in _nodes(parts):
            self._check_options(where, node)
            node["_target_"] = name_now(node["_target_"])
            wanted.setdefault(node["_target_"], where)
        rules = {name: self._rule(where, name) for name, where in wanted.items()}
        self._found = {name: self._find(where, name, rules[name]) for name, where in wanted.items()}

    def __call__(self, part: str) -> Any:
        """The object of a part. Raises InputError if it does not take its arguments."""
        return self._make(self._parts[part], part)

    def _check_options(self, where: str, node: dict[Any, Any]) -> None:
        for key, kind in _OPTIONS.items():
            if key in node and type(node[key]) is not kind:
                raise self._refusal(f"{key} of {short(where)} is not {_WORDS[kind]}")
        if node.get("_convert_", "all") not in ("all", "partial", "object"):
            raise self._refusal(f"_convert_ of {short(where)} is not all: objects are made from plain data here")
        # Who takes its arguments unmade may make them with Hydra, which looks up what texts refer to.
        if not node.get("_recursive_", True) and _refers(node):
            raise self._refusal(f"{short(where)} is not _recursive_, and has ${{...}} in it")

    def _rule(self, where: str, name: str) -> Rule:
        """The rule that lets a name through, which alone is looked at here. Raises InputError if none does."""
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise self._refusal(f"{asks(where, name)}, which is no name of a class or function in a module")
        rule = next((rule for rule in self._rules if rule.covers(name)), None)
        if rule is None:
            refusal = self._refusal(f"{asks(where, name)}; {allowed_in_words()}", package_to_allow(name))
            if (now := name_after_renaming(name)) is None:
                raise refusal
            change = f"{short(where)}._target_={short(now)}"
            raise InputError(f"{refusal}, or if that package has another name now, {change} in scripts/evaluate.py")
        if any(part.startswith("_") for part in rule.rest(name)):
            raise self._refusal(f"{asks(where, name)}, which is private")
        return rule

    def _find(self, where: str, name: str, rule: Rule) -> Any:
        """The class or function of a name. Raises InputError if there is none that the rule lets through."""
        wants = asks(where, name)
        try:
            found = importlib.import_module(rule.package)
            for part in rule.rest(name):
                found = member(found, part, rule)
        except Exception as error:
            raise self._refusal(f"{wants}, which cannot be had: {short(one_line(error))}") from error
        if not inspect.isclass(found) and not inspect.isroutine(found):
            raise self._refusal(f"{wants}, which is neither a class nor a function")
        home = getattr(found, "__module__", None)
        if not rule.is_home(home):
            raise self._refusal(
                f"{wants}, which is defined in {home}; {allowed_in_words()}", package_to_allow(f"{home}.it")
            )
        if rule.bases and not (inspect.isclass(found) and issubclass(found, rule.bases)):
            kinds = " or ".join(base.__name__ for base in rule.bases)
            raise self._refusal(f"{wants}, which is no {kinds}; {allowed_in_words()}", package_to_allow(name))
        return found

    def _refusal(self, problem: str, package: str | None = None) -> InputError:
        advice = ""
        if package is not None and package.split(".")[0] in sys.stdlib_module_names:
            advice = "; this comes with Python itself and makes no model: better not trust the file"
        elif package is not None:
            packages = list(dict.fromkeys([*self._allow, package]))
            advice = f"; to allow more, only if you trust the file: {self._hint(packages)}"
        return InputError(f"checkpoint {self._path}: {problem}{advice}")

    def _make(self, config: Any, where: str) -> Any:
        if type(config) is list:
            return [self._make(value, below(where, index)) for index, value in enumerate(config)]
        if type(config) is not dict:
            return config
        is_object = "_target_" in config
        if not is_object or config.get("_recursive_", True):
            config = {key: self._make(value, below(where, key)) for key, value in config.items()}
        if not is_object:
            return config
        target = self._found[config["_target_"]]
        arguments = config.get("_args_", ())
        options = {key: value for key, value in config.items() if key not in _OPTIONS and key != "_convert_"}
        with making(config["_target_"], where):
            if config.get("_partial_", False):
                return partial(target, *arguments, **options)
            return target(*arguments, **options)


def _nodes(config: Any, where: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dict with a `_target_`, wherever it is, and its place."""
    if type(config) is dict:
        if "_target_" in config:
            yield where, config
        for key, value in config.items():
            yield from _nodes(value, below(where, key))
    elif type(config) is list:
        for index, value in enumerate(config):
            yield from _nodes(value, below(where, index))


def _refers(config: Any) -> bool:
    """Whether a text in it is more than itself for OmegaConf."""
    if type(config) is dict:
        return any(_refers(value) for value in config.values())
    if type(config) is list:
        return any(_refers(value) for value in config)
    return isinstance(config, str) and "${" in config


@contextmanager
def making(name: str, where: str) -> Iterator[None]:
    """While an object is made: any failure is one of the values in the file. Raises InputError, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot make {name} for {short(where)}: {short(one_line(error))}") from error
