"""Runs on disk as training leaves them, made in milliseconds: written by TensorBoard's own writer."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

# tag -> (index of the step it is logged at, value, wall time)
Points = Mapping[str, Iterable[tuple[int, float, float]]]
MakeRun = Callable[..., Path]


@pytest.fixture
def write_events() -> Callable[..., None]:
    """`write_events(file, points, begin)`."""
    return _write_events


@pytest.fixture
def make_plan() -> Callable[..., dict[str, Any]]:
    """`make_plan(num_samples, epochs, ...)`."""
    return _plan


def _write_events(file: Path, points: Points, begin: float = 1000.0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as content:
        writer = RecordWriter(content)
        writer.write(event_pb2.Event(wall_time=begin, file_version="brain.Event:2").SerializeToString())  # pyright: ignore
        for tag, values in points.items():
            for step, value, time in values:
                scalar = summary_pb2.Summary.Value(tag=tag, simple_value=value)  # pyright: ignore
                event = event_pb2.Event(wall_time=time, step=step, summary=summary_pb2.Summary(value=[scalar]))  # pyright: ignore
                writer.write(event.SerializeToString())


def _plan(
    num_samples: int = 10, epochs: Iterable[tuple[int, int, int]] = ((4, 3, 10),) * 4, **other: Any
) -> dict[str, Any]:
    """plan.json; `epochs` are (batch size, steps, samples)."""
    rows = [
        {"epoch": i, "batch_size": size, "steps": steps, "iterations": steps, "samples": samples}
        for i, (size, steps, samples) in enumerate(epochs)
    ]
    return {
        "num_samples": num_samples, "batch_size": rows[0]["batch_size"], "devices": 1, "accumulate_grad_batches": 1,
        "micro_batch_size": rows[0]["batch_size"], "drop_last": False, "epochs": len(rows),
        "steps_per_epoch": rows[0]["steps"], "iterations_per_epoch": rows[0]["steps"],
        "total_steps": sum(row["steps"] for row in rows), "total_iterations": sum(row["steps"] for row in rows),
        "total_samples": sum(row["samples"] for row in rows), "per_epoch": rows,
    } | other  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("name", overrides=[...], batch_size=4, ...)`: a folder in `tmp_path/runs`.

    10 samples, batches of 4, 4 epochs of 3 steps. Its val/loss falls to `val_loss` in the third epoch, at step 9, and
    is twice that at the end; its test accuracy is 1 - `val_loss`.
    """

    def make(
        name: str,
        overrides: Iterable[str] = (),
        seed: int = 0,
        val_loss: float = 0.25,
        status: str | None = "finished",
        experiment: str = "digits",
        config: Mapping[str, Any] | None = None,
        points: Points | None = None,
        the_plan: dict[str, Any] | None = None,
        **result: Any,
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        given = [f"+experiment={experiment}", *overrides, f"seed={seed}"]
        settings = {
            "experiment": experiment, "overrides": given, "in_sweep": True, "seed": seed, "budget": None,
            "data": {"batch_size": 4, "batch_growth": None}, "optimizer": {"lr": 0.1},
            "trainer": {"limit_train_batches": None},
            "callbacks": {"checkpoint": {"monitor": "val/loss", "mode": "min"}},
        }  # fmt: skip
        settings = settings | dict(config or {})
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        counts = the_plan or _plan()
        (folder / "plan.json").write_text(json.dumps(counts))
        if points is None:
            epochs = [
                (2, 4 * val_loss, 1010.0),
                (5, 2 * val_loss, 1020.0),
                (8, val_loss, 1030.0),
                (11, 2 * val_loss, 1040.0),
            ]
            train = [(step, val_loss + (0.1 if step % 2 else 0.0), 1001.0 + 3 * step) for step in range(12)]
            points = {"train/loss": train, "val/loss": epochs}
        if points:
            _write_events(folder / "events.out.tfevents.1000.host.1.0", points)
        if status is not None:
            steps = counts["total_steps"] or 12
            content = {
                "status": status, "experiment": experiment, "overrides": given, "seed": seed, "plan": counts,
                "progress": {"epochs": counts["epochs"], "steps": steps, "samples": counts["total_samples"]},
                "metrics": {"train/loss": 9.0, "train/loss_epoch": val_loss, "train/acc": 0.95,
                            "val/loss": 2 * val_loss, "test/loss": 2 * val_loss, "test/acc": 1 - val_loss,
                            "train_set/loss": 0.5 * val_loss, "train_set/acc": 0.9},
                "best": {"monitor": "val/loss", "value": val_loss, "step": 9, "checkpoint": "checkpoints/best.ckpt"},
                "seconds": {"total": 60.0, "setup": 1.0, "fit": 50.0, "train": 40.0, "validation": 8.0, "saving": 1.0,
                            "test": 1.0}, "samples_per_second": 1.0, "peak_memory_is_own": True,
                "peak_memory_bytes": 123_000_000, "resumed_from": None,
                "versions": {"python": "3.12.0", "torch": "2.13.0"}, "git_commit": None,
            } | result  # fmt: skip
            (folder / "result.json").write_text(json.dumps(content))
        return folder

    return make
