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
    positions: dict[str, int] = {}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()
        elif isinstance(logger, CSVLogger):
            logger.experiment.save()
    for file in folder.rglob(_EVENTS):
        positions[str(file.relative_to(folder))] = file.stat().st_size
    for file in folder.rglob(_ROWS):
        positions[str(file.relative_to(folder))] = len(_rows(file))
    return positions


def take_back(source: Path, positions: dict[str, int], folder: Path) -> None:
    """Leave in `folder` what the logs in `source` held at those positions. The two may be the same.

    Event files only ever grow, and are flushed before a position is taken, so that each is cut between two events.
    """
    same = source.resolve() == folder.resolve()
    for name, position in positions.items():
        file, copy = source / name, folder / name
        is_log = file.match(_EVENTS) or file.name == _ROWS
        # The names are from a checkpoint, and could point anywhere.
        if not is_log or not file.is_file() or not file.resolve().is_relative_to(source.resolve()):
            continue
        if not same:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        if copy.name == _ROWS:
            _write_rows(copy, _rows(copy)[:position])
        elif copy.stat().st_size > position:
            os.truncate(copy, position)
    for file in [*folder.rglob(_EVENTS), *folder.rglob(_ROWS)]:
        if str(file.relative_to(folder)) not in positions:
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
