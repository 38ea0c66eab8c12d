"""What the study of a summary.csv asks, where its runs are not."""

from pathlib import Path

import yaml

from metronome.runs.asking import Asking, read_asking
from metronome.units import InputError


def asking_beside(path: Path) -> Asking:
    """What the study of a summary.csv asks: as the sweep that its report lies in was asked, or as the study of its name
    in the folder above (`conf/study/results/batch_size.csv` belongs to `conf/study/batch_size.yaml`). Nothing where
    neither is there."""
    for folder in (path.parent, path.parent.parent):
        if (found := read_asking(folder)) is not None:
            return found
    try:
        content = yaml.safe_load((path.parent.parent / f"{path.stem}.yaml").read_text())
        return Asking.of(content.get("study"))
    except (OSError, ValueError, AttributeError, yaml.YAMLError, InputError):
        return Asking()
