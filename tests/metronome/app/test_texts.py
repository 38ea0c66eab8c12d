"""TensorBoard's text tab over the whole life of a run: failed, killed and resumed, on two processes."""

import json
from pathlib import Path

import pytest
from commands import Commands, wait_for
from forked import Forked, run_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = ("+experiment=digits", "model=mlp", "trainer=cpu")
ALL = {"advice", "command", "configuration", "plan", "result"}


def texts(run: Path) -> dict[str, list[tuple[int, str]]]:
    """All that was written, doubled ones too."""
    events = EventAccumulator(str(run), purge_orphaned_data=False, size_guidance={"tensors": 0}).Reload()
    found = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"] if tag.endswith("/text_summary")}
    return {
        tag.removesuffix("/text_summary"): [(e.step, e.tensor_proto.string_val[0].decode()) for e in found[tag]]
        for tag in found
    }


def test_a_run_that_fails_says_so(commands: Commands) -> None:
    done = commands("train", *SMALL, "trainer.max_epochs=1", "optimizer.lr=1e30", "scheduler=constant")
    assert done.code == 1
    ((_, text),) = texts(done.run)["result"]
    assert "| status | failed |" in text
    assert done.result["error"].split(";")[0].split("\n")[0][:40] in text


@pytest.mark.slow
def test_without_a_board_nothing_is_written(commands: Commands) -> None:
    done = commands("train", *SMALL, "trainer.max_steps=1", "trainer.max_epochs=-1", "logger=none", "test=false")
    assert done.code == 0, done.err
    assert not list(done.run.glob("*tfevents*"))


@pytest.mark.slow
def test_killed_and_resumed_each_text_is_there_once(tmp_path: Path) -> None:
    command = (*SMALL, "trainer.max_epochs=40", "resume=auto", "callbacks.checkpoint.save_last_every=10 steps")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = run_forked(tmp_path / "whole", "train", *command)
    assert whole.code == 0, whole.err
    with Forked(tmp_path / "cut", "train", *command) as process:
        wait_for(lambda: list((tmp_path / "cut").glob("runs/*/*/checkpoints/last.ckpt")))
        process.kill()
    (run,) = (tmp_path / "cut").glob("runs/*/*")
    assert not (run / "result.json").exists()
    assert texts(run).keys() == ALL - {"result", "advice"}
    again = run_forked(tmp_path / "cut", "train", *command)
    assert again.code == 0, again.err
    found, expected = texts(run), texts(whole.run)
    assert found.keys() == ALL
    assert {tag: [step for step, _ in written] for tag, written in found.items()} == {
        tag: [step for step, _ in written] for tag, written in expected.items()
    }
    for tag in ("command", "plan", "advice"):
        assert found[tag] == expected[tag]
    assert "went on from" in found["result"][0][1]
    assert again.result["weights_sha256"] == whole.result["weights_sha256"]


@pytest.mark.slow
def test_a_finished_run_that_is_trained_longer(commands: Commands) -> None:
    first = commands("train", *SMALL, "trainer.max_epochs=1", "hydra.run.dir=runs/first", "scheduler=constant")
    assert first.code == 0, first.err
    again = commands("train", *SMALL, "trainer.max_epochs=2", "hydra.run.dir=runs/again", "scheduler=constant",
                     "ckpt_path=runs/first/checkpoints/last.ckpt")  # fmt: skip
    assert again.code == 0, again.err
    found = {tag: [step for step, _ in written] for tag, written in texts(Path("runs/again")).items()}
    assert found == {"command": [0, 20], "configuration": [0, 20], "plan": [0, 20], "result": [40], "advice": [40]}


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    done = run_forked(tmp_path, "train", *SMALL, "trainer=ddp_cpu", "trainer.max_epochs=1")
    assert done.code == 0, done.err
    found = texts(done.run)
    assert found.keys() == ALL
    assert all(len(written) == 1 for written in found.values())
    assert json.loads((done.run / "result.json").read_text())["weights_sha256"] in found["result"][0][1]
    assert "| devices | 2 |" in found["plan"][0][1]
