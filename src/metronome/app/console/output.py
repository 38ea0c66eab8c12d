"""What a run says on the terminal: the plan before it, its result after it; in a sweep, one line a job."""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.rank_zero import rank_zero_only

from metronome.advice import Advice
from metronome.advice.gradients import FEWEST
from metronome.advice.text import at_the_end
from metronome.app.errors.exits import JobFailed
from metronome.app.errors.messages import mistake, one_line
from metronome.app.run.claim import Run
from metronome.app.run.result import Result
from metronome.app.sweeps.lines import COLUMNS, failed_lines, results, seconds, tested
from metronome.app.sweeps.place import here
from metronome.app.sweeps.table import ended_lines
from metronome.insight.progress.callback import Progress
from metronome.insight.progress.time_left import JobOfSweep
from metronome.runs.names import RESULT_FILE
from metronome.runs.sweeps import own_overrides
from metronome.units import Plan

log = logging.getLogger("metronome")


# Warnings of Lightning's that tell a user nothing to act on, each with the reason.
_NOISE = (
    "isinstance(treespec, LeafSpec)",  # Lightning's own use of a PyTorch function that is to go
    "You have overridden `on_before_batch_transfer` in `LightningModule`",  # the Classifier does, to check labels
    "does not have many workers",  # tensors in memory are read fastest without any
    "is smaller than the logging interval",  # epoch values are logged all the same
    "You are using a custom batch sampler `EvaluationSampler` for prediction",  # it leaves none out
    "exists and is not empty",  # the checkpoints of a run that goes on
    "The dirpath has changed from",  # a new run that starts from the checkpoint of another
)


def quiet() -> None:
    """Keep Lightning's notes and hints off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # trainer.enable_model_summary=true: without rich, Lightning logs the table; as a line of ours it is shown once.
    summary = logging.getLogger("lightning.pytorch.callbacks.model_summary")
    summary.parent, summary.propagate = log, True
    for start in _NOISE:
        warnings.filterwarnings("ignore", message=f".*{re.escape(start)}")


def quiet_for(run: Run) -> None:
    """Let the first process of a run speak alone, and in a sweep say nothing but warnings and its own line."""
    quiet()
    if rank_zero_only.rank != 0:
        logging.getLogger().setLevel(logging.ERROR)  # the first process speaks for all
    if run.in_sweep:
        for handler in logging.getLogger().handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.setLevel(logging.WARNING)


def show_plan(run: Run, plan: Plan | None, rates: list[str]) -> None:
    text = "the data have no length, so only the budget is known" if plan is None else plan.text()
    text = "\n".join([text, *(line for rate in rates for line in _row("rate", [rate]))])
    log.info("%s\n\n%s\n", joined(f"{run.experiment}  ->", run.relative_folder), text)


def show_start(run: Run, step: int) -> None:
    """Where a run goes on from."""
    assert run.checkpoint is not None
    path = Path(run.checkpoint).absolute()
    name = path.relative_to(run.folder) if path.is_relative_to(run.folder) else os.path.relpath(path)
    log.info("%s\n", joined(f"{'goes on':11}after step {step:,}, from", str(name)))


def show_job_in_progress(run: Run, trainer: Any) -> None:
    """In a sweep the live line says which job it is; where jobs run beside each other, there is none."""
    if run.in_sweep:
        place = here()
        for callback in trainer.callbacks:
            if isinstance(callback, Progress):
                callback.job = JobOfSweep(place.number, place.jobs, place.seconds_each)
                callback.may_draw = not place.is_beside_others


def done_before(run: Run) -> float | None:
    """A run that an earlier start has brought to its end. Returns its objective; raises JobFailed if it failed."""
    content = json.loads((run.folder / RESULT_FILE).read_text())
    if run.in_sweep:
        _show_job(ended_lines(here(), _own(), run.folder, content, before=True))
    else:
        log.info("%s", joined("finished before:", f"{run.relative_folder}/{RESULT_FILE}"))
    if content["status"] == "failed":
        failed = JobFailed(str(content.get("error")))
        failed.is_from_before = True
        raise failed
    return content["best"] and float(content["best"]["value"])  # JSON holds an infinite one as a text


def _show_job(lines: str) -> None:
    if rank_zero_only.rank == 0:  # the others may look before it has left its result, too
        print(lines, flush=True)


def show_result(run: Run, content: dict[str, Any]) -> None:
    """The end of a run that did what it should."""
    if run.in_sweep:
        _show_job(ended_lines(here(), _own(), run.folder, content))
        return
    rows: list[str] = []
    if best := content["best"]:
        step = "" if best["step"] is None else f" at step {best['step']:,}"  # None: the checkpoint could not be read
        rows += _row("best", [f"{results(content)[0]}{step}"])
    rows += _row("test", tested(content))
    rate = content["samples_per_second"]
    speed = f", {rate:,.0f} samples/s" if rate else ""
    rows += _row("fit", [f"{seconds(content)}{speed}"])
    by_set = (content.get("progress") or {}).get("by_set", {})
    rows += _row("sets", [f"{name} {seen['samples']:,} = {seen['epochs']:.4g} epochs" for name, seen in by_set.items()])
    rows.append(f"{'weights':11}sha256 {content['weights_sha256'][:16]}...")  # whole in result.json
    rows += joined(f"{'result':10}", f"{run.relative_folder}/{RESULT_FILE}").splitlines()
    log.info("")
    for row in rows:
        log.info("%s", row)
    show_advice(content)


def show_advice(content: dict[str, Any]) -> None:
    """What to do about it; a sweep's jobs have theirs in the results alone. Of a run that was not watched nobody says
    that it is healthy."""
    found, watched = [Advice(**entry) for entry in content.get("advice", ())], content.get("watched")
    has_gradients = bool(watched) and len(watched["gradients"]["squared"]) >= FEWEST
    for line in at_the_end(found, has_gradients) if found or watched else ():
        log.info("%s", line)


@contextmanager
def advised(result: Result) -> Iterator[Result]:
    """Around a run: one that diverged is told what to do, above the line that says so."""
    try:
        with result:
            yield result
    except Exception:
        if result.content["nonfinite"] and not result.run.in_sweep:
            show_advice(result.content)
        raise


def show_failed_job(error: BaseException) -> None:
    """The end of a sweep's job that failed: its reason here, the traceback in its log."""
    line = mistake(error)
    if line is None:
        log.info("the job failed", exc_info=error)
        line = f"{type(error).__name__}: {one_line(error)}"
    folder = Path(HydraConfig.get().runtime.output_dir)
    print(failed_lines(here(), _own(), f"failed: {line}", folder), flush=True)


def _own() -> list[str]:
    """What a sweep's job has for itself."""
    hydra = HydraConfig.get()
    return own_overrides(hydra.overrides.task, Path(hydra.sweep.dir))


def _row(word: str, facts: list[str]) -> list[str]:
    """Facts beside a word, on as many lines as they need."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 2 + len(fact) <= COLUMNS:
            lines[-1] += f"  {fact}"
        else:
            lines += [f"{'' if lines or i else word:11}{part}" for i, part in enumerate(wrap(fact, COLUMNS - 11))]
    return lines


def joined(words: str, folder: str) -> str:
    """A folder behind some words, or below them, where it can be copied, if the line would be too long."""
    line = f"{words}  {folder}" if words.endswith("->") else f"{words} {folder}"
    return line if len(line) <= COLUMNS else f"{words.rstrip()}\n{folder}"
