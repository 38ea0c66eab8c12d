"""The plan as TensorBoard shows it."""

import warnings
from pathlib import Path
from typing import Any

import jobs
import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from metronome.insight import PlanText
from metronome.insight.plan_in_tensorboard import plan_markdown
from metronome.units import BatchSchedule, Duration, Plan


def texts(folder: Path) -> dict[str, dict[int, str]]:
    """What was written, by tag and step."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: {e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


def test_written_at_the_start(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name, "") for name in ("a", "b")]
    jobs.fit(
        logger=[*loggers, CSVLogger(tmp_path)],
        callbacks=[PlanText()],
        max_epochs=2,
        limit_val_batches=0,
        accumulate_grad_batches=3,
    )
    expected = """\
| plan |  |
| --- | ---: |
| num_samples | 157 |
| batch_size | 32 |
| devices | 1 |
| accumulate_grad_batches | 3 |
| micro_batch_size | 11 |
| drop_last | no |
| epochs | 2 |
| steps_per_epoch | 5 |
| iterations_per_epoch | 15 |
| total_steps | 10 |
| total_iterations | 30 |
| total_samples | 314 |"""
    assert texts(tmp_path / "a") == texts(tmp_path / "b") == {"plan/text_summary": {0: expected}}


class Foreign(jobs.Net):
    def on_train_batch_end(self, *_: Any) -> None:
        pass


def test_lightnings_own_trainer_has_no_plan(tmp_path):
    flags: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    flags |= {"enable_checkpointing": False, "enable_model_summary": False, "limit_val_batches": 0}
    run = L.Trainer(max_steps=1, logger=TensorBoardLogger(tmp_path, "", ""), callbacks=[PlanText()], **flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(Foreign(), DataLoader(TensorDataset(jobs.X, jobs.Y), 32))
    assert texts(tmp_path) == {}


def test_growing_batch():
    schedule = BatchSchedule.of(8, 1157, {"factor": 2})
    plan = Plan.make(1157, schedule, budgets=[Duration.parse("33 epochs")])
    numbers, epochs, more = plan_markdown(plan).split("\n\n")
    assert "| num_samples | 1,157 |" in numbers
    rows = epochs.splitlines()
    assert rows[:4] == [
        "| epoch | batch_size | steps | iterations | samples |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 0 | 8 | 145 | 145 | 1,157 |",  # 144 x 8 + 5
        "| 1 | 16 | 73 | 146 | 1,157 |",  # 72 x 16 + 5, each cut in two
    ]
    assert len(rows) == 2 + 20
    assert rows[-1].startswith("| 19 | 1,157 | 1 |")
    assert more == "and 13 more"


def test_unknown_total():
    plan = Plan.make(157, BatchSchedule(32), budgets=[Duration.parse("90 min")])
    assert "| total_steps | not known |" in plan_markdown(plan)
