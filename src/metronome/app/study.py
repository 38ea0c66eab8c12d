"""A study: a sweep with a question, reported on at its end. Imports nothing heavy before that."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metronome.app.cli import JobFailed, past_hydra
from metronome.app.folders import relative, sweep_of, this_sweep
from metronome.units import InputError

_begun: dict[Path, str] = {}  # the folder of the study that this process has begun, and its name


class Study(Callback):
    """Begins a study in the folder of its sweep; the report is made by `reported`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with past_hydra():
            folder = begin(Path(config.hydra.sweep.dir), this_sweep(config))
        _begun[folder] = config.hydra.runtime.choices.study
        print(f"{_begun[folder]}  ->  {relative(folder)}", flush=True)


def begin(folder: Path, sweep: dict[str, Any]) -> Path:
    """The folder, if it is new or holds this very study. Raises InputError if it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{relative(folder)} is a file, and a study needs a folder; give another hydra.sweep.dir")
    if folder.is_dir() and any(folder.iterdir()) and sweep_of(folder) != sweep:
        held = "a sweep or study of other values" if sweep_of(folder) else "something else"
        raise InputError(f"the folder {relative(folder)} holds {held}; give another hydra.sweep.dir, or leave it out")
    return folder


@contextmanager
def reported() -> Iterator[None]:
    """Around a command: a study that it has made is reported on, also where some of its jobs have failed."""
    _begun.clear()
    try:
        yield
    except JobFailed:
        _report()
        raise
    except (KeyboardInterrupt, SystemExit):
        for folder in _begun:
            print(f"so far     python scripts/report.py {relative(folder)}", file=sys.stderr, flush=True)
        raise
    _report()


def _report() -> None:
    for folder, study in _begun.items():
        from metronome.report import report

        page = report([folder], title=f"Study {study}")
        print(f"report     {relative(page)}", flush=True)
