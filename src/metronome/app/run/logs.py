"""Curves without doubled points: what was logged after a checkpoint is taken back when a run goes on from it."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

_EVENTS, _ROWS = "*tfevents*", "metrics.csv"


def log_positions(loggers: list[Any], folder: Path) -> dict[str, int]:
    """How far each log file in the folder of a run has been written: bytes of event files, rows of a CSV file."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CSVLogger):
            logger.experiment.save()
    return {
        str(file.relative_to(folder)): len(_rows(file)) if file.name == _ROWS else file.stat().st_size
        for file in _files(loggers, folder)
    }


def take_back(loggers: list[Any], source: Path, positions: dict[str, int], folder: Path) -> None:
    """Leave in `folder` what the logs of the run in `source` held at those positions. The two may be the same.

    Event files only ever grow, and are flushed before a position is taken, so that each is cut between two events.
    Nothing but the files of these loggers in the folder is touched.
    """
    kept: set[Path] = set()
    for name, position in positions.items():
        file, ours = source / name, folder / name
        is_log = file.match(_EVENTS) or file.name == _ROWS
        # The names are from a checkpoint, and could point anywhere.
        inside = file.resolve().is_relative_to(source.resolve()) and ours.resolve().is_relative_to(folder.resolve())
        if not (is_log and inside and file.is_file()):
            continue
        if not (ours.exists() and ours.samefile(file)):
            ours.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, ours)
        if ours.name == _ROWS:
            _write_rows(ours, _rows(ours)[:position])
        elif ours.stat().st_size > position:
            os.truncate(ours, position)
        kept.add(ours.resolve())
    for file in _files(loggers, folder):
        if file.resolve() not in kept:
            file.unlink()  # begun after the checkpoint


def go_on_with_rows(loggers: list[Any]) -> None:
    """Keep the rows of a CSV file, which Lightning's logger would begin anew."""
    for logger in loggers:
        file = Path(logger.log_dir) / _ROWS if isinstance(logger, CSVLogger) else None
        if file is None or not file.is_file():
            continue
        rows = _rows(file)
        logger.experiment.metrics = rows + logger.experiment.metrics
        logger.experiment.save()


def _files(loggers: list[Any], folder: Path) -> list[Path]:
    """The log files of these loggers that lie in the folder of the run."""
    found: list[Path] = []
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            continue
        root, pattern = Path(logger.root_dir), _EVENTS if isinstance(logger, TensorBoardLogger) else _ROWS
        # Where versions are counted, an earlier start has one of its own.
        for place in {Path(logger.log_dir), root, *root.glob("version_*")}:
            if place.resolve().is_relative_to(folder.resolve()):
                found += [folder / file.resolve().relative_to(folder.resolve()) for file in place.glob(pattern)]
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def _write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    used = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    aside = file.with_suffix(".csv.part")
    with open(aside, "w", newline="") as lines:
        writer = csv.DictWriter(lines, fieldnames=used, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, file)
