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
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.rank_zero import rank_zero_only

from metronome.advice import Advice
from metronome.advice.text import at_the_end
from metronome.app.errors.exits import JobFailed
from metronome.app.errors.messages import mistake, one_line
from metronome.app.run.claim import Run
from metronome.app.run.result import Result
from metronome.app.sweeps.search import FILE as SEARCH_FILE
from metronome.app.sweeps.search import trials_done
from metronome.runs.folders import relative
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
    "exists and is not empty",  # the checkpoints of a run that goes on
    "The dirpath has changed from",  # a new run that starts from the checkpoint of another
)


def quiet() -> None:
    """Keep Lightning's notes and hints off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
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
    text = "\n".join([text, *(f"rate       {rate}" for rate in rates)])
    log.info("%s  ->  %s\n\n%s\n", run.experiment, run.relative_folder, text)


def show_start(run: Run, step: int) -> None:
    """Where a run goes on from."""
    assert run.checkpoint is not None
    log.info("goes on     after step %s, from %s\n", f"{step:,}", os.path.relpath(run.checkpoint))


def done_before(run: Run) -> float | None:
    """A run that an earlier start has brought to its end. Returns its objective; raises JobFailed if it failed."""
    content = json.loads((run.folder / RESULT_FILE).read_text())
    if content["status"] == "failed":
        print(f"{_job()}  failed before: {content.get('error')}  {run.relative_folder}", flush=True)
        raise JobFailed(str(content.get("error")))
    if run.in_sweep:
        print(f"{_job()}  {'  '.join([*_best(content), *_tested(content)])}  before  {run.relative_folder}", flush=True)
    else:
        log.info("finished before: %s/%s", run.relative_folder, RESULT_FILE)
    return content["best"] and float(content["best"]["value"])  # JSON holds an infinite one as a text


def show_result(run: Run, content: dict[str, Any]) -> None:
    """The end of a run that did what it should."""
    best, tested = _best(content), _tested(content)
    if run.in_sweep:
        facts = [*best, *tested, f"{content['seconds']['fit']:.1f} s"]
        print(f"{_job()}  {'  '.join(facts)}  {run.relative_folder}", flush=True)
        return
    if best:
        step = content["best"]["step"]  # unknown where the checkpoint could not be read
        log.info("\nbest       %s%s", best[0], "" if step is None else f" at step {step:,}")
    if tested:
        log.info("test       %s", "  ".join(tested))
    rate = content["samples_per_second"]
    speed = f", {rate:,.0f} samples/s" if rate else ""
    log.info("fit        %.1f s%s", content["seconds"]["fit"], speed)
    log.info("weights    sha256 %s", content["weights_sha256"])
    log.info("result     %s/result.json", run.relative_folder)
    show_advice(content)


def show_advice(content: dict[str, Any]) -> None:
    """What to do about it; a sweep's jobs have theirs in the results alone. Of a run that was not watched nobody says
    that it is healthy."""
    found = [Advice(**entry) for entry in content.get("advice", ())]
    for line in at_the_end(found) if found or content.get("watched") else ():
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
    """The end of a sweep's job that failed: one line here, the traceback in its log."""
    line = mistake(error)
    if line is None:
        log.info("the job failed", exc_info=error)
        line = f"{type(error).__name__}: {one_line(error)}"
    print(f"{_job()}  failed: {line}  {relative(Path(HydraConfig.get().runtime.output_dir))}", flush=True)


def _job() -> str:
    """A sweep's job: its number, and what it has for itself."""
    hydra = HydraConfig.get()
    sweep, number = Path(hydra.sweep.dir), hydra.job.num
    if (sweep / SEARCH_FILE).is_file():
        number = trials_done(str(sweep)) + number % hydra.sweeper.n_jobs  # over every start
    return " ".join([f"#{number}", *own_overrides(hydra.overrides.task, sweep)])


def _best(content: dict[str, Any]) -> list[str]:
    return [] if content["best"] is None else [f"{content['best']['monitor']} {float(content['best']['value']):.4g}"]


def _tested(content: dict[str, Any]) -> list[str]:
    return [
        f"{name} {float(value):.4g}" for name, value in sorted(content["metrics"].items()) if name.startswith("test/")
    ]
