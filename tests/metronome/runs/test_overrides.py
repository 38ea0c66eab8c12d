"""Overrides: what they say of a run, and what they do not."""

import pytest

from metronome.runs.overrides import key_and_value, what_it_is


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("+experiment=digits", "experiment", "digits"),
        ("++model.width=3", "model.width", "3"),
        ("~callbacks.progress", "callbacks.progress", ""),
        ("budget='20 epochs'", "budget", "20 epochs"),
        ("name=a\\=b", "name", "a=b"),
        ("data.x=", "data.x", ""),
    ],
)
def test_key_and_value(override: str, key: str, value: str) -> None:
    assert key_and_value(override) == (key, value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=1", True),
        ("+a=2", True),
        ("resumed=1", True),
        ("trainer.max_steps=5", True),
        ("resume=auto", False),
        ("+ckpt_path=x", False),
        ("trials=9", False),
        ("run_dir=here", False),
        ("hydra.run.dir=y", False),
        ("hydra/sweeper=z", False),
    ],
)
def test_what_a_run_is(override: str, says: bool) -> None:
    assert what_it_is(["b=0", override]) == sorted(["b=0"] + [override] * says)
