"""The house: imports point down, each room keeps to itself, and a file is one idea."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from commands import PROJECT

HOUSE = PROJECT / "src/metronome"
FILES = sorted(HOUSE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
# The rooms from the top down: one imports from those below it, never from one above.
ROOMS = ("app", "report", "advice", "runs", "insight", "models", "data", "training", "units")
# Beside each other, with nothing to say to each other.
APART = {("runs", "insight"), ("runs", "models"), ("runs", "data"), ("runs", "training"), ("report", "insight"),
         ("report", "models"), ("report", "data"), ("report", "training"), ("insight", "models"), ("insight", "data"),
         ("models", "data"), ("advice", "insight"), ("advice", "models"), ("advice", "data"),
         ("advice", "training")}  # fmt: skip
# The same for the rooms inside rooms; what lies in the room itself is above them, but for what stands at the end.
INNER = {
    "app": ("processes", "console", "run", "storage", "sweeps", "config", "hosts", "errors"),
    "training": ("trainer", "loops", "looks", "step", "guards", "planning", "flags", "signature", "speed", "sharded",
                 "logged", "checkpoints", "batches", "state", "networks", "place", "precise", "lightning_private"),
}  # fmt: skip
FRAMEWORKS = {"torch", "lightning", "hydra", "omegaconf", "optuna"}
MOST_LINES, MOST_FILES = 300, 12


def name_of(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def room_of(path: Path) -> str | None:
    """The room that a file lies in; None for the files of the package itself."""
    first = path.relative_to(HOUSE).parts[0]
    return first if first in ROOMS else None


def imports(path: Path) -> Iterator[tuple[str, ast.ImportFrom | ast.Import]]:
    """All that a file imports, wherever in it: full names of modules, and of what is taken from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: write imports in full, as in `from metronome.units import Plan`"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


@cache
def files_imported(path: Path) -> set[Path]:
    """The files of the house that a file imports."""
    found: set[Path] = set()
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "metronome":
            continue
        for length in (len(parts), len(parts) - 1):  # a module, or something in one
            place = HOUSE.joinpath(*parts[1:length])
            file = next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)
            if file is not None:
                found.add(file)
                break
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = room_of(path)
    if here is None:
        return
    for name in sorted({room for file in files_imported(path) if (room := room_of(file)) not in (None, here)}):
        advice = f"{name_of(path)} imports from {name}: move what it needs down, or what needs it up"
        assert ROOMS.index(name) > ROOMS.index(here), advice
        assert (here, name) not in APART, advice


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in INNER], ids=name_of)
def test_imports_point_down_inside_a_room(path: Path) -> None:
    room = room_of(path)
    assert room is not None

    def level(file: Path) -> int:
        place = str(file.relative_to(HOUSE / room).with_suffix(""))
        found = [i for i, inner in enumerate(INNER[room]) if place == inner or place.startswith(f"{inner}/")]
        return found[0] if found else -1

    if path.name == "__init__.py":
        return
    for file in files_imported(path):
        if room_of(file) == room:
            above = f"{name_of(path)} imports {name_of(file)}, which is above it in INNER of this test"
            assert level(file) >= level(path), above


def test_no_circles() -> None:
    """Imports for type checking and within functions included."""
    finished: set[Path] = set()

    def visit(path: Path, way: list[Path]) -> None:
        circle = " -> ".join(map(name_of, [*way[way.index(path) :], path])) if path in way else ""
        assert not circle, f"{circle}; move what both need into a file below them, or hand it over as an argument"
        if path not in finished:
            for file in sorted(files_imported(path)):
                visit(file, [*way, path])
            finished.add(path)

    for path in FILES:
        visit(path, [])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_a_room_knows(path: Path) -> None:
    names = [name for name, _ in imports(path)]
    packages, room = {name.split(".")[0] for name in names}, room_of(path)
    if room != "app":
        assert not packages & {"hydra", "omegaconf", "optuna"}, "only app knows Hydra"
    if room in ("runs", "report", "advice"):
        assert not packages & FRAMEWORKS, f"{room} reads what is on the disk, and starts fast"
    if room == "units":
        assert not packages & (FRAMEWORKS | {"numpy"}), "units are pure arithmetic"
    own = {path.parent.name for path in PROJECT.glob("src/*/__init__.py")} - {"metronome"}
    assert not packages & own, f"{name_of(path)} imports a project's own package: the library knows none"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_lightnings_private_names_are_imported_in_one_place(path: Path) -> None:
    if name_of(path) == "training/lightning_private.py":
        return
    private = r"lightning\.(.*\.)?_|lightning\.pytorch\.(loops|trainer\.(call|connectors))\b"
    for name, _ in imports(path):
        assert not re.match(private, name), f"{name_of(path)}: import {name} in training/lightning_private.py"
    if room_of(path) == "training":
        return
    contract = json.loads((PROJECT / "tests/metronome/training/lightning_contract.json").read_text())
    taken = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not taken & set(contract["attributes"]), "outside of training, use what is public"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_one_idea(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{name_of(path)} has {lines} lines; which two ideas are in it?"
    assert ast.get_docstring(ast.parse(path.read_text())) or not path.read_text().strip(), (
        "begin it with what it is for"
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_can_be_looked_over(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES, f"{name_of(folder)} has {len(files)} files; group what belongs together"


@pytest.mark.parametrize("room", ROOMS)
def test_each_readme_has_a_line_for_each_file(room: str) -> None:
    named, folder = set(), ""
    for line in (HOUSE / room / "README.md").read_text().splitlines():
        if row := re.match(r"\| \*\*`([\w/]+/)`\*\*", line):  # the files below are in this folder
            folder = row.group(1)
        elif row := re.match(r"\| (`\w+\.py`(?:, `\w+\.py`)*) \|", line):
            named |= {folder + name for name in re.findall(r"\w+\.py", row.group(1))}
    there = {str(path.relative_to(HOUSE / room)) for path in (HOUSE / room).rglob("*.py") if path.name != "__init__.py"}
    assert {name for name in there if name not in named} == set(), f"say in {room}/README.md what these are for"
    assert {name for name in named if name not in there} == set(), f"{room}/README.md names what is not there"


def test_tests_mirror_the_rooms() -> None:
    for room in ROOMS:
        assert list((PROJECT / "tests/metronome" / room).glob("test_*.py")), f"the tests of {room} go to that folder"
