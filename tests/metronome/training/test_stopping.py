"""Told to stop, a run finishes its step, saves it, and goes on from there as if nothing had been."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, weights
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training import Checkpoint
from metronome.training.guards import agreement
from metronome.training.guards.between_steps import BetweenSteps


class Told(Net):
    """Sends itself a signal in the middle of a step (counted from 0), or of the validation after it."""

    def __init__(self, number: int, step: int = -1, validation: int = -1, times: int = 1, dropout: float = 0.2) -> None:
        super().__init__(dropout)
        self.number, self.step, self.validation, self.times = number, step, validation, times

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == self.validation and batch_idx == 0:
            os.kill(os.getpid(), self.number)
        super().validation_step(batch, batch_idx)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder, "best", monitor="val/loss", save_last=True, enable_version_counter=False)


@pytest.fixture(autouse=True)
def interruptible() -> Any:
    """SIGINT is ignored in what a shell starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SIGTERMException), (signal.SIGINT, SystemExit)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("where", [{"step": 0}, {"step": 6}, {"step": 9}, {"step": 19}, {"validation": 10}], ids=str)
def test_the_step_is_finished_and_saved(number: int, error: type, where: dict[str, int], tmp_path: Path) -> None:
    def run(model: Net, folder: Path, **flags: Any) -> Any:
        data = Data(batch_size=32, eval_batch_size=8)
        return fit(model=model, data=data, callbacks=[checkpoint(folder)], enable_checkpointing=True, **flags)

    whole, _ = run(Net(dropout=0.2), tmp_path / "whole")
    told = Told(number, **where)
    with pytest.raises(error):
        run(told, tmp_path)
    taken = where["step"] + 1 if "step" in where else where["validation"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == taken
    assert len(told.step_losses) == taken
    again, trainer = run(Net(dropout=0.2), tmp_path, checkpoint=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(again), weights(whole))
    assert told.val_losses + again.val_losses == whole.val_losses
    assert told.epoch_means + again.epoch_means == whole.epoch_means
    assert (trainer.global_step, trainer.counters.epochs, trainer.counters.samples) == (20, 4, 4 * 157)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_averaged_weights_are_not_saved_as_the_trained_ones(number: int, tmp_path: Path) -> None:
    """While an average of the weights is validated, the stop waits."""

    def run(model: Net, **flags: Any) -> Any:
        average = EMAWeightAveraging(decay=0.9)
        data = Data(batch_size=32, eval_batch_size=8)
        return fit(
            model=model, data=data, callbacks=[average, checkpoint(tmp_path)], enable_checkpointing=True, **flags
        )

    whole, _ = run(Net())
    with pytest.raises(SystemExit):
        run(Told(number, validation=10, dropout=0.0))
    again, _ = run(Net(), checkpoint=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(again), weights(whole))
    assert again.val_losses == whole.val_losses[2:]


def test_a_validation_is_not_asked_at_the_pace_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices, whose steps of 0.1 ms exchange stops every 500; a batch of their validation takes a second."""
    clock = [0.0]

    def stop(*_: Any) -> None:
        raise RuntimeError("told to stop")  # a forked process that ends by an interrupt says nothing

    monkeypatch.setattr(BetweenSteps, "_stop", stop)
    monkeypatch.setattr(agreement, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow(Told):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock[0] += 1e-4
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            clock[0] += 1.0
            self.validation = 80 if self.global_rank == 1 else -1
            super().validation_step(batch, batch_idx)
            if self.trainer.global_step == 80:
                (tmp_path / "batches").write_text(str(batch_idx + 1))

    told, data = Slow(signal.SIGINT, dropout=0.0), Data(batch_size=4, eval_batch_size=1)
    with pytest.raises(Exception, match="told to stop"):
        fit(model=told, data=data, devices=2, strategy="ddp_fork", max_epochs=3)
    assert int((tmp_path / "batches").read_text()) <= 3  # of 23


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    told = Told(signal.SIGINT, step=3, times=2)
    with pytest.raises(SystemExit):
        fit(model=told, callbacks=[checkpoint(tmp_path)], enable_checkpointing=True)
    assert len(told.step_losses) == 3
    assert not (tmp_path / "last.ckpt").exists()


class Handler:
    """As submitit's, which calls scontrol itself."""

    __module__ = "submitit.core.job_environment"

    def __init__(self, error: BaseException) -> None:
        self.error, self.asked = error, 0

    def checkpoint_and_try_requeue(self, *_: Any) -> None:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [(SystemExit(-1), 143), (SystemExit(144), 144), (RuntimeError("Job not requeued: timed-out too many times"), 143)],
    ids=["slurm", "this machine", "too often"],
)
def test_submitit_starts_the_job_again(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once, when the step is saved; a second signal is not heard."""
    handler, before = Handler(error), signal.getsignal(signal.SIGUSR2)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)
    try:
        with pytest.raises(SIGTERMException) as stopped:
            fit(
                model=Told(signal.SIGUSR2, step=6, times=2),
                callbacks=[checkpoint(tmp_path)],
                enable_checkpointing=True,
            )
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert (handler.asked, stopped.value.code) == (1, code)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7


def test_slurm_starts_the_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Lightning's plugin, and between two steps."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in (("JOB_ID", "77"), ("NTASKS", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0"),
                        ("JOB_NAME", "mine"), ("STEP_ID", "0")):  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        with pytest.raises(SIGTERMException):
            fit(
                model=Told(signal.SIGUSR1, step=6),
                callbacks=[checkpoint(tmp_path)],
                enable_checkpointing=True,
                plugins=[SLURMEnvironment(auto_requeue=True, requeue_signal=signal.SIGUSR1)],
                default_root_dir=str(tmp_path),
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 7
    assert not list(tmp_path.glob("hpc_ckpt*"))
