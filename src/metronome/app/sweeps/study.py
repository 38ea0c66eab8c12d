"""A study: a sweep with a question, reported on at its end. Imports nothing heavy before that."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.asked import asked_sweep
from metronome.app.errors.exits import past_hydra
from metronome.runs.asking import Asking, asked_before, write_asking
from metronome.runs.deciding import deciding, flat
from metronome.runs.folders import hold, relative
from metronome.runs.names import LOCK_FILE, SWEEP_FILE
from metronome.runs.sweeps import sweep_of
from metronome.units import InputError

_begun: dict[Path, str] = {}  # the folder of the study that this process has begun, and its name
_held: list[Any] = []  # what keeps other processes out of it


class Study(Callback):
    """Begins a study in the folder of its sweep; the report is made by `reported`."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with past_hydra():
            folder, name = Path(config.hydra.sweep.dir), config.hydra.runtime.choices.study
            asking = OmegaConf.to_container(OmegaConf.create({"study": config.get("study")}), resolve=True)["study"]  # pyright: ignore
            Asking.of(asking)
            begin(folder, asked_sweep(config), settings_of(config), asking)
            write_asking(folder, name, asking)
        _begun[folder] = name
        print(f"{_begun[folder]}  ->  {relative(folder)}", flush=True)


def begin(folder: Path, sweep: dict[str, Any], settings: dict[str, Any], asking: Any = None) -> Path:
    """The folder, if it is new or holds this very study, held until `reported` lets it go.

    Raises:
        InputError: if it holds anything else, or this study with other settings, or another process works in it.
    """
    if (file := next((path for path in (folder, *folder.parents) if path.is_file()), None)) is not None:
        raise InputError(f"{relative(file)} is a file, and a study needs a folder; give another hydra.sweep.dir")
    if folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        if sweep_of(folder) != sweep:
            held = "a sweep or study of other values" if sweep_of(folder) else "something else"
            raise InputError(
                f"the folder {relative(folder)} holds {held}; give another hydra.sweep.dir, or leave it out"
            )
        before = settings_of(yaml.safe_load((folder / SWEEP_FILE).read_text())) | _ends(asked_before(folder))
        settings = settings | _ends(asking)
        for name in [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
            raise InputError(
                f"the study in {relative(folder)} began with {name}={before.get(name)}, which is {settings.get(name)} "
                "now; begin anew with resume=null, or put it back"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if (lock := hold(folder)) is not None:  # on Windows there is none
        _held.append(lock)
    return folder


def _ends(asking: Any) -> dict[str, Any]:
    """What of a study's questions its runs end by: those made for another target may have stopped before this one."""
    return flat("study.target", (asking or {}).get("target"))


def settings_of(config: Any) -> dict[str, Any]:
    """What a study's configuration says of its runs, as it is written: nothing is resolved."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
    return deciding(config)


@contextmanager
def reported() -> Iterator[None]:
    """Around a command: a study that it has made is reported on, also where some of its jobs have failed."""
    _begun.clear()
    try:
        yield
    except Exception:
        with suppress(InputError):  # no job has come so far as to be reported on
            _report()
        raise
    except (KeyboardInterrupt, SystemExit):
        for folder in _begun:
            print(f"so far     python scripts/report.py {relative(folder)}", file=sys.stderr, flush=True)
        raise
    finally:
        while _held:
            _held.pop().close()
    _report()


def _report() -> None:
    for folder, study in _begun.items():
        from metronome.report import report

        page = report([folder], title=f"Study {study}")
        print(f"report     {relative(page)}", flush=True)
