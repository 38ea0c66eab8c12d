"""A run as texts in TensorBoard."""

from pathlib import Path

import jobs
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metronome.insight import PlanText
from metronome.insight.text_tab import advice_text, command_text, configuration_text, result_text, write_texts
from metronome.training import Checkpoint


def texts(folder: Path) -> dict[str, dict[int, str]]:
    """What was written, by tag and step."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: {e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


RESULT = {
    "status": "finished",
    "best": {"monitor": "val/loss", "value": 0.25, "step": 1200, "checkpoint": "checkpoints/best.ckpt"},
    "metrics": {"val/loss": 0.3, "test/acc": 0.98765432, "train/loss": "nan"},
    "progress": {"epochs": 2, "steps": 1234},
    "seconds": {"total": 61.25, "test": 0.0},
    "samples_per_second": 12345.6,
    "peak_memory_bytes": 2**30,
    "weights_sha256": "abc",
    "resumed_from": {"checkpoint": "checkpoints/last.ckpt", "step": 1000},
    "out_of_memory": [{}],
    "nonfinite": [],
    "versions": {"torch": "2.13"},
    "git_commit": None,
}


def test_a_command_can_be_copied() -> None:
    assert command_text("scripts/train.py", ["+experiment=digits", "budget=20 epochs"]) == (
        "    python scripts/train.py +experiment=digits 'budget=20 epochs'"
    )
    words = [f"key_{i}={i}" for i in range(30)]
    lines = command_text("scripts/train.py", words).splitlines()
    assert max(map(len, lines)) <= 106
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert " ".join(line.rstrip("\\") for line in lines).split() == ["python", "scripts/train.py", *words]


def test_a_configuration_has_a_row_for_each_value() -> None:
    config = {"seed": 0, "data": {"size": [1, 2], "_target_": "a.B"}, "text": "a|b`c", "none": {}, "all": {"a": None}}
    assert configuration_text(config, ["+data.size=[1,2]", "all.a=null"]).splitlines()[2:] == [
        "| `seed` | `0` |",
        "| **`data.size`** | `[1, 2]` |",
        "| `data._target_` | `a.B` |",
        "| `text` | `a|b'c` |",
        "| `none` | `{}` |",
        "| **`all.a`** | `null` |",
    ]


def test_a_result() -> None:
    rows = dict(line.strip("| ").split(" | ") for line in result_text(RESULT).splitlines()[2:])
    assert rows == {
        "status": "finished", "best val/loss": "0.25 at step 1,200", "test/acc": "0.9877", "train/loss": "nan",
        "val/loss": "0.3", "epochs": "2", "steps": "1,234", "seconds: total": "61.2", "samples a second": "12,346",
        "peak memory": "1,024 MiB", "went on from": "`checkpoints/last.ckpt` at step 1,000", "out of memory": "1",
        "weights_sha256": "`abc`", "torch": "2.13",
    }  # fmt: skip
    failed = RESULT | {"status": "failed", "error": "a\nb", "best": None, "metrics": {}, "progress": None}
    assert result_text(failed).splitlines()[2:4] == ["| status | failed |", "| error | `a b` |"]


@pytest.mark.parametrize("flags", [["a=1", "b=2"], "a=1 b=2"])
def test_advice(flags: str | list[str]) -> None:
    assert advice_text([]) == "nothing to advise"
    entry = {"symptom": "slow | loader", "evidence": "62 %\nof a step", "advice": "read ahead", "flags": flags}
    assert advice_text([entry]).splitlines() == [
        "| symptom | evidence | what to do | flags |",
        "| --- | --- | --- | --- |",
        "| slow \\| loader | 62 % of a step | read ahead | `a=1 b=2` |",
    ]


def test_texts_at_the_end_come_after_the_last_file(tmp_path: Path) -> None:
    for name in ("events.out.tfevents.0.hparams", "events.out.tfevents.17.a.1.0", "events.out.tfevents.18.a.1.1"):
        (tmp_path / name).touch()
    write_texts(tmp_path, {"result": "| a |"}, 7)
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "events.out.tfevents.18.a.1.1.texts"
    assert texts(tmp_path) == {"result/text_summary": {7: "| a |"}}
    write_texts(tmp_path / "none", {"result": "b"}, 0)
    assert texts(tmp_path / "none") == {"result/text_summary": {0: "b"}}


def test_a_run_that_goes_on_writes_only_what_has_changed(tmp_path: Path) -> None:
    def run(logs: str, said: dict[str, str], epochs: int, checkpoint: str | None = None) -> dict[str, dict[int, str]]:
        keeps = Checkpoint(tmp_path / logs, save_last=True)
        logger = TensorBoardLogger(tmp_path / logs, "", "")
        flags = {"enable_checkpointing": True, "limit_val_batches": 0, "max_epochs": epochs, "checkpoint": checkpoint}
        jobs.fit(logger=logger, callbacks=[PlanText(said), keeps], **flags)
        return texts(tmp_path / logs)

    first = run("first", {"command": "train", "configuration": "a"}, 1)
    assert {tag: list(found) for tag, found in first.items()} == {
        "command/text_summary": [0], "configuration/text_summary": [0], "plan/text_summary": [0],
    }  # fmt: skip
    last = str(tmp_path / "first/last.ckpt")
    assert run("same", {"command": "train", "configuration": "a"}, 1, last) == {}
    assert run("other", {"command": "train", "configuration": "b"}, 2, last).keys() == {
        "configuration/text_summary", "plan/text_summary",
    }  # fmt: skip
    assert list(texts(tmp_path / "other")["configuration/text_summary"]) == [5]


def test_the_files_hold_nothing_but_texts(tmp_path: Path) -> None:
    write_texts(tmp_path, {"result": "b"}, 0)
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == []
