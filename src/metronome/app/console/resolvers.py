"""What the configuration works out: names of folders, what a sweep is, trials left. Imports nothing heavy."""

import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metronome.app.config.asked import asked_sweep, typed
from metronome.app.console.help import help_text
from metronome.app.hosts.company import company, is_of_torchrun
from metronome.app.sweeps.cluster import gpus_per_node, tasks_per_node
from metronome.app.sweeps.direction import direction_of_search
from metronome.app.sweeps.search import trials_done, trials_left
from metronome.runs.overrides import goes_on, key_and_value
from metronome.runs.sweeps import of_all_jobs

MAX_NAME = 120  # file systems allow 255 bytes
MAX_DIFFERING = 24  # of a single run's, so that a line with its folder fits a terminal; all is in its config.yaml
_SAID_ELSEWHERE = ("experiment", "name", "tags", "callbacks", "logger", "num_threads", "test", "test_train_set")
# TensorBoard's list of runs shows some 30 letters, of a long name those after the last hyphen that a line can end with:
# `b96611/batch_size=16,seed=0` of `digits/sweep_2026-11-25_170842-b96611/batch_size=16,seed=0`. So a sweep's name has
# one late, and its jobs' names are short: of these keys, which are no others' too, only the last word is written.
_SHORT = {
    key: key.rpartition(".")[2]
    for key in (
        "data.batch_size", "data.batch_growth", "data.drop_last", "optimizer.lr", "optimizer.momentum",
        "optimizer.weight_decay", "optimizer.scale_lr", "optimizer.nesterov", "scheduler.warmup", "trainer.max_epochs",
        "trainer.max_steps", "trainer.accumulate_grad_batches", "trainer.precision", "model.network.width",
    )
}  # fmt: skip


def run_name() -> str:
    """`<date>_<time>_<short id>`; where another program starts the processes of a run, a name that they all find."""
    if os.environ.get("SLURM_STEP_ID") and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return f"slurm_{os.environ['SLURM_JOB_ID']}_{os.environ['SLURM_STEP_ID']}"
    return _name_in_company() if is_of_torchrun() else _new_name()


@cache
def _name_in_company() -> str:
    others = company()
    return _new_name() if others is None else others.first_says(_new_name)


def _new_name() -> str:
    return f"{datetime.now():%Y-%m-%d_%H%M%S}_{secrets.token_hex(3)}"


def sweep_name(name: object = None) -> str:
    """`<date>_<time>-<short id>`, or what other programs' processes find; the sweep's name before the id."""
    start, _, end = run_name().rpartition("_")
    own = f"{named}_" if (named := _named(name)) else ""
    return f"{start}-{own}{end}"


def job_name(overrides: str, number: int | str, sweep: str = "") -> str:
    """A sweep's job by what is not the same in all of its jobs, as one folder name: `batch_size=16,seed=0`. The
    experiment is left out where the folder of the sweep lies in one of its name."""
    text = _without(overrides, [f"+experiment={Path(sweep).parent.name}"])
    text = _without(text, of_all_jobs(Path(sweep))) or text  # of one job all are
    short = ",".join(map(_short, text.split(",")))
    name = _plain(short) or f"job_{number}"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME - 9]}_{digest}"
    return name


def words_of_run(name: object, overrides: Iterable[str]) -> str:
    """What follows the id in the name of a run's folder: a hyphen, and its name or, without one, what was typed, as
    far as it has room; not what the folder above says already, how it goes on, or who looks on."""
    if name is not None:
        return f"-{named}" if (named := _named(name)) else ""
    words: list[str] = []
    for override in map(str, overrides):
        key, value = key_and_value(override)
        if not (goes_on(override) or key.split(".")[0] in _SAID_ELSEWHERE):
            value = re.sub(r"[\[\]]", "", value)  # which a shell would take for a pattern
            words.append(_plain(_short(f"~{key}" if override.startswith("~") else f"{key}={value}")))
    kept = list(
        itertools.takewhile(lambda word: len(word) <= MAX_DIFFERING, itertools.accumulate(words, "{},{}".format))
    )
    return f"-{kept[-1]}" if kept else ""


def _named(name: object) -> str:
    """A name as a part of a folder's, as far as it has room: file systems count bytes. The whole is in config.yaml."""
    whole = "" if name is None else _plain(str(name))
    return whole.encode(errors="ignore")[:MAX_NAME].decode(errors="ignore")


def _plain(text: str) -> str:
    """As a part of a folder's name."""
    return re.sub(r"[^\w.,=+@%~\-\[\]]+", "_", text).strip("_")


def _without(overrides: str, some: list[str]) -> str:
    text = f",{overrides},"
    for override in some:
        text = text.replace(f",{override},", ",")
    return text.strip(",")


def _short(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{_SHORT.get(key, key)}{equals}{value}"


def register_resolvers() -> None:
    """Make `${run_name:}` and the others known to the configuration."""
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_words", _words_of_this_run, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("direction_of_search", _direction_of_search, replace=True)
    OmegaConf.register_new_resolver("tasks_per_node", lambda *, _root_: tasks_per_node(_root_), replace=True)
    OmegaConf.register_new_resolver("gpus_per_node", lambda *, _root_: gpus_per_node(_root_), replace=True)
    OmegaConf.register_new_resolver("this_sweep", _this_sweep, replace=True)
    OmegaConf.register_new_resolver("help", help_text, replace=True)
    OmegaConf.register_new_resolver("trials_left", trials_left, replace=True)
    OmegaConf.register_new_resolver("trials_done", trials_done, replace=True)


def _direction_of_search(*, _root_: Any) -> str:
    return direction_of_search(_root_)


def _words_of_this_run(name: object, *, _root_: Any) -> str:
    return words_of_run(name, typed(_root_.hydra.overrides.task))


def _this_sweep(*, _root_: Any) -> str:
    """As JSON, without the dollars that OmegaConf would put values in for."""
    return json.dumps(asked_sweep(_root_)).replace("$", "\\u0024")
