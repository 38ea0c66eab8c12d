"""What `--help` shows: commands, the main keys and their values, the files of each group. Imports nothing heavy."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import OmegaConf

from metronome.app.console.groups import chosen_by_default, files_by_group, folders_of, what_it_is

WIDTH = 79
_MOST_CUT = 0.3  # of the room, that at least is filled
_COMMANDS = """\
Metronome: one batch is one step, on any number of devices.

  python scripts/train.py experiment=digits         train, test, leave a result
  python scripts/train.py experiment=digits data.batch_size=128 optimizer=adamw
  python scripts/train.py experiment=digits -m seed=0,1,2            three runs
  python scripts/train.py study=regime       a sweep with a question, a report
  python scripts/plan.py experiment=digits            epochs and steps: counted
  python scripts/plan.py experiment=digits paper=cluster   on 1,000s of devices
  python scripts/tune.py experiment=minibatch target=0.3     a rate and a batch
  python scripts/report.py runs/digits           tables and figures of any runs
"""
# A line for each, where the configuration has it.
_KEYS = {
    "measure": "make some steps, and tell time and memory",
    "format": "text or json",
    "target": "the metric to be reached; null: found out",
    "sizes": "batch sizes to choose from: [16,64,256]",
    "trials": "short trainings, at most",
    "budget": "how long to train: 500steps, 1e6samples, 90min",
    "seed": "all random numbers follow from it",
    "name": "a name for the run, in its folder's name",
    "tags": "words to find the run by: [a,b]",
    "monitor": "the metric by which a checkpoint is best",
    "data.batch_size": "samples a step sees, over all devices; or full",
    "data.batch_growth.factor": "the batch grows; .every=5epochs, .max=512",
    "optimizer.lr": "the learning rate",
    "optimizer.scale_lr": "it follows the batch: linear, sqrt, noise",
    "scheduler.warmup": "how long it rises first: 5%, 500steps",
    "trainer.max_epochs": "or a budget in its place",
    "trainer.devices": "share each batch; with trainer=ddp or fsdp",
    "trainer.num_nodes": "hosts, of so many devices each",
    "trainer.accumulate_grad_batches": "cut each batch, for memory; or auto",
    "trainer.precision": "or bf16-mixed, 64-true",
    "trainer.val_check_interval": "validate: steps, or part of an epoch",
    "num_threads": "CPU threads; null: as many as cores",
    "resume": "auto: go on with what this command left",
    "ckpt_path": "go on from this checkpoint; or last",
    "storage": "keep the run there too: s3://bucket/project",
    "callbacks.checkpoint.background": "true: saves hold up no training",
    "test": "test the best checkpoint at the end",
}
_OF_ONE_RUN = ("plan", "tune")  # and a study has many
_FLAGS = """\
Flags: -m runs every combination of values with commas (seed=0,1), --cfg job
shows the whole configuration, --hydra-help Hydra's own flags. Each run of -m
as a job of a cluster: hydra/launcher=slurm; side by side here: joblib, or ray.
More: README.md, conf/README.md, conf/hydra/README.md, conf/trainer/README.md
"""


def help_text(*, _root_: Any) -> str:
    """The text for a composed configuration, which `--help experiment=x` shows with the values of x."""
    folders = folders_of(sys.argv[1:], sys.argv[0])
    parts = [_COMMANDS, "\nMain keys, with their values\n", *_keys(_root_), "\n", *_groups(folders), _FLAGS]
    return "".join(parts).rstrip().replace("$", "$$")  # Hydra puts values in for dollars


def _keys(config: Any) -> Iterable[str]:
    for key, words in _KEYS.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if OmegaConf.is_config(node) and name in node:
            yield _line(f"{key}={_value(config, key)}", words, 33)


def _value(config: Any, key: str) -> str:
    value = OmegaConf.select(config, key)
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _groups(folders: Iterable[Path]) -> Iterable[str]:
    folders = list(folders)
    defaults = chosen_by_default(folders)
    groups = files_by_group(folders)
    if Path(sys.argv[0]).stem in _OF_ONE_RUN:
        groups.pop("study", None)
    if Path(sys.argv[0]).stem != "plan":
        groups.pop("paper", None)
    for group in _in_order(groups, defaults):
        chosen = f" ({defaults[group]} unless you choose)" if group in defaults else ""
        yield f"{group}=...{chosen}\n"
        for file in groups[group]:
            yield _line(file.stem, what_it_is(file), 17)
        yield "\n"


def _in_order(groups: Iterable[str], defaults: Iterable[str]) -> list[str]:
    """Whole runs first, then the parts in the order of the defaults."""
    defaults = [group for group in defaults if group in groups]
    return [*sorted(set(groups) - set(defaults), key=lambda g: (g != "experiment", g != "study", g)), *defaults]


def _line(name: str, words: str, column: int) -> str:
    start = f"  {name:{column - 4}}  "
    return f"{start}{_cut(words, WIDTH - len(start))}".rstrip() + "\n"


def _cut(words: str, room: int) -> str:
    """The clauses of a sentence that fit, or as many words."""
    if len(words) <= room:
        return words
    ends = [end.start() for end in re.finditer(r"[:;,](?= )| (?=\()", words) if _MOST_CUT * room <= end.start() <= room]
    return words[: ends[-1]] if ends else shorten(words, room, placeholder=" ...")
