"""The story of a run: claim its folder, build, plan, fit, test, write the result."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.asked import in_search, in_sweep
from metronome.app.config.build import Job
from metronome.app.console import output
from metronome.app.console.jobs import job_of_a_sweep
from metronome.app.errors.exits import codes_of_signals, sigterm_stops
from metronome.app.processes.company import in_company
from metronome.app.processes.start import processes_to_start, run_processes
from metronome.app.run.checkpoints import KEY, call_after_first_save, model_checkpoint, read_checkpoint
from metronome.app.run.choices import choices, swept
from metronome.app.run.claim import Run
from metronome.app.run.logs import go_on_with_rows, take_back
from metronome.app.run.result import Result
from metronome.app.run.tested import callbacks_leave_the_weights
from metronome.app.run.texts import TextsAtTheEnd, texts_of
from metronome.app.run.training_set import metrics_of_training_set
from metronome.app.storage.mirroring import stored
from metronome.app.sweeps.direction import check_direction
from metronome.insight import HParams, PlanText
from metronome.runs.folders import run_around


def train(config: DictConfig) -> float | None:
    """Train as the configuration says, in this process or in one for each device.

    Returns:
        The best value of the monitored metric, for a search over runs; None if nothing was monitored.
    """
    with (
        job_of_a_sweep(config),
        Run.claim(config) as run,
        stored(run.config.get("storage"), run.folder, run.start.goes_on, run.in_sweep),
    ):
        output.quiet_for(run)
        if run.start.is_done:
            return output.done_before(run)
        with sigterm_stops(), TextsAtTheEnd() as texts, output.advised(Result(run)) as result:
            job = run.build()
            if in_search():
                check_direction(run.config, model_checkpoint(job.trainer))
            texts.follow(job.trainer, result)
            result.take_over_unless_it_replaces()
            result.take_plan(job.plan, job.rates)
            output.show_plan(run, job.plan, job.rates)
            if count := processes_to_start(job.trainer) or isolated(config):
                with result.of_processes():
                    run_processes(run, count)
            else:
                with in_company():
                    fit_and_test(run, job, result)
        output.show_result(run, result.content)
        return result.objective


def isolated(config: DictConfig) -> int:
    """1 where a study gives each run a process of its own: that of the sweep has kept what the runs before took."""
    return int(in_sweep() and bool(OmegaConf.select(config, "study.isolate")))


def train_in_one_of_several(run: Run) -> None:
    """What each process of a run on several devices does."""
    output.quiet_for(run)
    with Result(run, is_alone=True) as result:
        job = run.build()
        result.take_over_unless_it_replaces()
        result.take_plan(job.plan, job.rates)
        fit_and_test(run, job, result)


def fit_and_test(run: Run, job: Job, result: Result) -> None:
    """Train, then test the best checkpoint, or the last weights where none was kept."""
    trainer, model, data = job.trainer, job.model, job.data
    begin_logs(run, job, result)
    output.show_job_in_progress(run, trainer)
    result.lap("setup")

    with codes_of_signals():
        try:
            call_after_first_save(trainer, result.take_over)
            trainer.fit(model, datamodule=data, ckpt_path=run.checkpoint, weights_only=True)
        finally:
            result.lap("fit")
            result.take_progress(trainer)
        result.take_over()
        result.take_weights(model)

        if run.config["test"] and is_overridden("test_step", model) and is_overridden("test_dataloader", data):
            best = model_checkpoint(trainer)
            path = best.best_model_path if best is not None else ""
            with callbacks_leave_the_weights(trainer, path) if path else nullcontext():
                trainer.test(model, datamodule=data, ckpt_path=path or None, verbose=False, weights_only=True)
            result.take_tested(trainer.callback_metrics)
            if run.config.get("test_train_set"):
                result.take_metrics(metrics_of_training_set(trainer, model, data, path or None))
            result.lap("test")


def begin_logs(run: Run, job: Job, result: Result) -> None:
    """The logs as they were at the checkpoint that the run goes on from, or new ones."""
    before: dict[str, Any] = {}
    if run.checkpoint is not None:
        checkpoint = read_checkpoint(run.checkpoint, parts=())
        before = checkpoint.get(KEY, {}).get("logs", {})
        result.take_start(run.checkpoint, checkpoint["global_step"])
        output.show_start(run, checkpoint["global_step"])
    if rank_zero_only.rank == 0 and (run.start.goes_on or before):
        source = run_around(Path(run.checkpoint)) if run.checkpoint is not None else run.folder
        take_back(job.trainer.loggers, source or run.folder, before, run.folder)
        go_on_with_rows(job.trainer.loggers)
    for callback in job.trainer.callbacks:  # pyright: ignore
        if isinstance(callback, HParams) and not callback.values:
            callback.values = choices(run.experiment, run.overrides, run.config, job.plan)
            callback.swept = swept(run.overrides, run.folder.parent)
        if isinstance(callback, PlanText) and not callback.texts:
            callback.texts = texts_of(run)
    for logger in job.trainer.loggers:
        if not (before and isinstance(logger, TensorBoardLogger)):  # it has them from before
            logger.log_hyperparams(run.config)
