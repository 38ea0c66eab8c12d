"""The house: imports point down, and each room keeps to itself."""

import ast

import pytest
from commands import PROJECT

SOURCE = PROJECT / "src/metronome"
# Each room, and the rooms it may import from.
BELOW = {
    "units": set(),
    "training": {"units"},
    "data": {"training", "units"},
    "models": {"training", "units"},
    "insight": {"training", "units"},
    "report": {"units"},
    "app": {"report", "insight", "models", "data", "training", "units"},
}
FILES = sorted(SOURCE.glob("*/*.py"))


def imported(path: object) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):  # pyright: ignore
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return names


def test_every_room_is_known() -> None:
    assert {path.parent.name for path in FILES} == set(BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_down(path: object) -> None:
    room = path.parent.name  # pyright: ignore
    names = imported(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("metronome.")}
    assert rooms <= BELOW[room] | {room}
    packages = {name.split(".")[0] for name in names}
    if room != "app":
        assert not packages & {"hydra", "omegaconf"}, "only app knows Hydra"
    if room == "units":
        assert not packages & {"torch", "lightning", "numpy"}, "units are pure arithmetic"


def test_tests_mirror_the_rooms() -> None:
    assert {path.name for path in (PROJECT / "tests").iterdir() if path.is_dir() and path.name[0] != "_"} == set(BELOW)
