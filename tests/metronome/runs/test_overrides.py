"""Overrides: what they say of a run, and what they do not."""

from pathlib import Path

import pytest

from metronome.runs.overrides import in_a_sweep, key_and_value, what_it_is
from metronome.runs.sweeps import own_overrides, write_sweep


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


def test_the_jobs_of_a_sweep_do_not_repeat_what_all_have(tmp_path: Path) -> None:
    """Hydra writes values in its own way."""
    typed = ["test=false", "optimizer.lr=1e-3", "tags=[a, b]", "budget='2 steps'", "name=x", "seed=0,1"]
    assert list(map(in_a_sweep, typed[:3])) == ["test=False", "optimizer.lr=0.001", "tags=[a,b]"]
    write_sweep(tmp_path, {"overrides": typed, "sweeper": "x", "params": {}, "jobs": []})
    job = ["test=False", "optimizer.lr=0.001", "tags=[a,b]", "budget='2 steps'", "name=x", "seed=0"]
    assert own_overrides(job, tmp_path) == ["seed=0"]
