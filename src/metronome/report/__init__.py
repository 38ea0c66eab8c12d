"""Runs on disk, in tables and figures. Needs neither torch nor lightning, so that it starts fast."""

from metronome.report.write import report

__all__ = ["report"]
