"""The story of a run: compose, plan, build, fit, test, write the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from metronome.app.config.build import Job, build_job
from metronome.app.console import output
from metronome.app.console.command_line import EXIT_SIGINT, EXIT_SIGTERM, JobFailed, sigterm_stops
from metronome.app.processes.start import processes_to_start, run_processes
from metronome.app.run.checkpoints import KEY, model_checkpoint, read_checkpoint
from metronome.app.run.claim import Run, in_search, in_sweep
from metronome.app.run.logs import go_on_with_rows, take_back
from metronome.app.run.result import Result
from metronome.runs.folders import run_of
from metronome.units import InputError


def train(config: DictConfig) -> float | None:
    """Train as the configuration says, in this process or in one for each device.

    Returns:
        The best value of the monitored metric, for a search over runs; None if nothing was monitored, and for a trial
        that failed.
    """
    try:
        return _train(config)
    except JobFailed:
        if in_search():
            return None  # which Optuna takes for a failure, and says nothing about
        raise


def _train(config: DictConfig) -> float | None:
    try:
        run = Run.claim(config)
    except InputError as error:
        if not in_sweep():
            raise
        output.a_failed_job(error)
        raise JobFailed(str(error)) from error
    try:
        output.begin(run)
        if run.is_done:
            return output.done_before(run)
        with sigterm_stops(), Result(run) as result:
            job = build_job(run)
            result.take_over()
            result.take_plan(job.plan)
            result.take_rates(job.rates)
            output.the_plan(run, job.plan, job.rates)
            if count := processes_to_start(job.trainer):
                with result.of_processes():
                    run_processes(run, count)
            else:
                fit_and_test(run, job, result)
    except JobFailed:
        raise
    except Exception as error:
        if not run.in_sweep:
            raise
        output.a_failed_job(error)
        raise JobFailed(str(error)) from error
    finally:
        run.release()
    output.the_result(run, result.content)
    return result.objective


def train_here(run: Run) -> None:
    """What each process of a run on several devices does."""
    output.begin(run)
    with Result(run, taken_over=True) as result:
        job = build_job(run)
        result.take_plan(job.plan)
        result.take_rates(job.rates)
        fit_and_test(run, job, result)


def fit_and_test(run: Run, job: Job, result: Result) -> None:
    """Train, then test the best checkpoint, or the last weights where none was kept."""
    trainer, model, data = job.trainer, job.model, job.data
    begin_logs(run, job, result)
    result.lap("setup")

    with exit_codes():
        fit(run, job, result)
        if run.config["test"] and is_overridden("test_step", model) and is_overridden("test_dataloader", data):
            best = model_checkpoint(trainer)
            path = best.best_model_path if best is not None else ""
            trainer.test(model, datamodule=data, ckpt_path=path or None, verbose=False, weights_only=True)
            result.take_metrics(trainer.callback_metrics)
            result.lap("test")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Lightning ends a run that is told to stop with code 0 or 1; a shell and a cluster expect these."""
    try:
        yield
    except SystemExit as stop:
        raise SystemExit(EXIT_SIGTERM if isinstance(stop, SIGTERMException) else EXIT_SIGINT) from stop


def fit(run: Run, job: Job, result: Result) -> None:
    trainer = job.trainer
    try:
        trainer.fit(job.model, datamodule=job.data, ckpt_path=run.checkpoint, weights_only=True)
    finally:
        result.lap("fit")
        result.take_progress(trainer)
    result.take_weights(job.model)


def begin_logs(run: Run, job: Job, result: Result) -> None:
    """The logs as they were at the checkpoint that the run goes on from, or new ones."""
    before: dict[str, Any] = {}
    if run.checkpoint is not None:
        checkpoint = read_checkpoint(run.checkpoint)
        before = checkpoint.get(KEY, {}).get("logs", {})
        result.take_start(run.checkpoint, checkpoint["global_step"])
        output.the_start(run, checkpoint["global_step"])
    if rank_zero_only.rank == 0 and (run.goes_on or before):
        source = run_of(Path(run.checkpoint)) if run.checkpoint is not None else run.folder
        take_back(job.trainer.loggers, source or run.folder, before, run.folder)
        go_on_with_rows(job.trainer.loggers)
    for logger in job.trainer.loggers:
        if not (before and isinstance(logger, TensorBoardLogger)):  # it has them from before
            logger.log_hyperparams(run.config)
