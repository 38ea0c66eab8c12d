"""What a study asks, read from its configuration."""

from pathlib import Path
from typing import Any

import pytest

from metronome.runs.asking import Asking, Target, read_asking, write_asking
from metronome.units import InputError

NODE = {
    "question": "How\n  many?",
    "target": {"metric": "val/loss", "values": [0.25, 0.54], "confirm": 3},
    "tune": "optimizer.lr",
    "isolate": True,
}


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_asking(tmp_path, "mine", NODE)
    expected = Asking("How many?", Target("val/loss", (0.54, 0.25), True, 3), "optimizer.lr", True)
    assert read_asking(tmp_path) == expected == Asking.of(NODE)
    assert Asking.of(None) == Asking()
    for mode in ({"mode": "max"}, {"mode": None}, {}):  # as the metric's name says
        accuracy = Asking.of({"target": {"metric": "val/acc", "values": [0.9, 0.8], **mode}}).target
        assert accuracy == Target("val/acc", (0.8, 0.9), False, 1)


@pytest.mark.parametrize("content", ["", "[]", '{"study": 5}', '{"study": {"question": "a", "tune": 5}}'])
def test_damage(content: str, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(content)
    assert read_asking(tmp_path) is None


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (5, "study=5 is not a table of question"),
        ({"tuned": "a"}, "study.tuned is not known; there are question, target, tune, isolate"),
        ({"isolate": "yes"}, "study.isolate='yes' is neither true nor false"),
        ({"tune": 5}, "study.tune=5 is not a key"),
        ({"target": {"values": [1]}}, "study.target.metric is missing"),
        ({"target": {"metric": "a", "values": ["b"]}}, "are not numbers"),
        ({"target": {"metric": "a", "values": [1], "confirm": 0}}, "study.target.confirm=0"),
        ({"target": {"metric": "a", "values": [1]}}, "add mode: min or mode: max to study.target"),
        ({"target": {"metric": "a", "values": [1], "mode": "low"}}, "study.target.mode=low"),
    ],
)
def test_what_cannot_be_asked(node: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Asking.of(node)
