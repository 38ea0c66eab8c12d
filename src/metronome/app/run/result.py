"""result.json: what a run was, what it did, and how it ended. Written last, and whole or not at all."""

import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
import torch
from torch import nn

from metronome.advice import advise
from metronome.app.errors.messages import mistake, one_line
from metronome.app.run.checkpoints import NothingLeft, model_checkpoint, read_checkpoint
from metronome.app.run.claim import Run
from metronome.app.run.clock import seconds_of
from metronome.app.run.memory import peak_memory_bytes, reset_peak_memory
from metronome.insight.watched.callback import watched_by
from metronome.runs.names import CONFIG_FILE, PLAN_FILE, RESULT_FILE
from metronome.training import Trainer
from metronome.training.checkpoints.files import written_aside
from metronome.training.sharded.tensors import whole
from metronome.units import InputError, Plan
from metronome.version import __version__


class Result:
    """Gathers a run's result, and writes it at the end of a `with` block, whatever happened in it.

    Written by the process with rank 0 only, unless the processes of the run have (see `of_processes`). `is_alone`: the
    process is of this run and no other, so that its memory is too.
    """

    def __init__(self, run: Run, is_alone: bool = False) -> None:
        self.run = run
        self.seconds: dict[str, float] = dict.fromkeys(
            ("total", "setup", "fit", "train", "validation", "saving", "test"), 0.0
        )
        self.content: dict[str, Any] = {
            "status": "failed",
            "experiment": run.experiment,
            "name": run.config.get("name"),
            "tags": run.config.get("tags"),
            "overrides": run.overrides,
            "seed": run.config.get("seed"),
            "plan": None,
            "rates": [],
            "progress": None,
            "metrics": {},
            "tested": [],
            "best": None,
            "stopped_early": None,
            "seconds": self.seconds,
            "samples_per_second": None,
            "peak_memory_bytes": None,
            "peak_memory_is_own": not run.in_sweep or is_alone,
            "weights_sha256": None,
            "resumed_from": None,
            "out_of_memory": [],
            "nonfinite": [],
            "watched": None,
            "advice": [],
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "lightning": L.__version__,
                "metronome": __version__,
            },
            "git_commit": _git_commit(),
        }
        self.is_written = False
        self._adopted = False
        self._may_write = not run.start.goes_on  # over what an earlier start has left
        self._began = self._last = time.monotonic()
        reset_peak_memory()

    # ---- what happened ------------------------------------------------------------------------------

    def take_over(self) -> None:
        """From here on the folder is this start's."""
        if not self._may_write and self.run.is_keeper:
            self.run.write_config()
            self._write_plan()
        self._may_write = True

    def take_over_unless_it_replaces(self) -> None:
        """All is made of a run that goes on; where it has other values, what is there stays until it has saved."""
        if not self.run.replaces:
            self.take_over()

    def take_plan(self, plan: Plan | None, rates: list[str]) -> None:
        """The plan, and how the learning rates follow the batch size, in words: what they are then is on no other
        record."""
        self.content["rates"] = rates
        self.content["plan"] = None if plan is None else plan.as_dict()
        if self._may_write and self.run.is_keeper:
            self._write_plan()

    def _write_plan(self) -> None:
        if self.content["plan"] is not None:
            write_json(self.run.folder / PLAN_FILE, self.content["plan"])

    def take_start(self, checkpoint: str, step: int) -> None:
        """The checkpoint that the run went on from."""
        self.content["resumed_from"] = {"checkpoint": os.path.relpath(checkpoint, self.run.folder), "step": step}

    def lap(self, phase: str) -> None:
        """The time since the last lap was spent on this phase."""
        now = time.monotonic()
        self.seconds[phase] += now - self._last
        self._last = now

    def take_progress(self, trainer: Trainer) -> None:
        """What the training has done so far, as it counted it."""
        counters = trainer.counters
        self.content["progress"] = {
            "epochs": counters.epochs,
            "steps": trainer.global_step,
            "iterations": counters.iterations,
            "samples": counters.samples,
        } | ({"by_set": counters.by_set} if counters.by_set else {})
        self.seconds |= seconds_of(trainer)
        if self.seconds["train"] > 0:
            trained = counters.samples - counters.samples_resumed
            self.content["samples_per_second"] = trained / self.seconds["train"]
        self.content["out_of_memory"] = list(trainer.out_of_memory)
        self.content["nonfinite"] = list(trainer.nonfinite)
        self.content["watched"] = watched_by(trainer)
        self.take_metrics(trainer.callback_metrics)
        self.content["best"] = self._best(trainer)
        self.content["stopped_early"] = next(filter(None, map(_why_it_ended, trainer.callbacks)), None)  # pyright: ignore

    def take_metrics(self, metrics: Any) -> None:
        self.content["metrics"] |= {name: float(value) for name, value in metrics.items()}

    def take_tested(self, metrics: Any) -> None:
        """What the test has logged, under whatever names."""
        self.content["tested"] = sorted(metrics)
        self.take_metrics(metrics)

    def take_weights(self, model: nn.Module) -> None:
        self.content["weights_sha256"] = weights_digest(model)

    @contextmanager
    def of_processes(self) -> Iterator[None]:
        """Take over the result that the processes of the run leave; one that they leave is not written again."""
        config, path = self.run.folder / CONFIG_FILE, self.run.folder / RESULT_FILE
        before = config.stat().st_mtime_ns
        try:
            yield
            self._adopted = self.is_written = True
        finally:
            self._may_write = self._may_write or config.stat().st_mtime_ns != before  # they have taken it over
            if self._may_write and path.is_file():
                self.content |= json.loads(path.read_text())

    # ---- how it ended ---------------------------------------------------------------------------------

    @property
    def objective(self) -> float | None:
        """What a search over runs optimizes: the best value of the monitored metric."""
        return self.content["best"] and self.content["best"]["value"]

    def __enter__(self) -> "Result":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._adopted or not self.run.is_keeper or not self._may_write or isinstance(error, NothingLeft):
            return
        self.content["status"] = "finished"
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.content["status"] = "stopped"
        elif error is not None:
            self.content["status"] = "failed"
            self.content["error"] = mistake(error) or f"{type(error).__name__}: {one_line(error)}"
        self.content["seconds"]["total"] = time.monotonic() - self._began
        on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        self.content["peak_memory_is_own"] |= on_gpu  # where it is what this run has allocated
        self.content["peak_memory_bytes"] = self.content["peak_memory_bytes"] or peak_memory_bytes(on_gpu)
        self.content["advice"] = [advice.as_dict() for advice in advise(_finite(self.content), self.run.config)]
        write_json(self.run.folder / RESULT_FILE, self.content)
        self.is_written = True

    def _best(self, trainer: Trainer) -> dict[str, Any] | None:
        callback = model_checkpoint(trainer)
        if callback is None or callback.best_model_score is None or not Path(callback.best_model_path).exists():
            return None
        try:
            step = read_checkpoint(callback.best_model_path, parts=())["global_step"]
        except InputError:
            step = None  # this runs while errors pass too, and must not hide them
        return {
            "monitor": callback.monitor,
            "mode": callback.mode,
            "value": float(callback.best_model_score),
            "step": step,
            "checkpoint": os.path.relpath(callback.best_model_path, self.run.folder),
        }


def _why_it_ended(callback: Any) -> str | None:
    """In words, if this callback has ended the training before its budget did."""
    return getattr(callback, "why", None) or getattr(callback, "stopping_reason_message", None)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the state dict: names in sorted order, each followed by its tensor's raw bytes. Of tensors that are
    spread over devices all must call it together; one is made whole after the other."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """A reader finds the old file or the new one, never half of one."""
    with written_aside(path) as file:
        # JSON knows no NaN or infinity, and a reader in another language would stumble over them.
        json.dump(_finite(content), file, indent=2, allow_nan=False)
        file.write("\n")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content


def _git_commit() -> str | None:
    """The commit of the folder the run was started in, with a plus sign if files differ from it."""
    try:
        git = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
