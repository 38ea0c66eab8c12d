"""The end of a process of a run on several devices."""

from pathlib import Path

from torch import distributed

from metronome.app import worker


def test_processes_part_before_they_end(tmp_path: Path) -> None:
    """Left to the interpreter, the group's threads were now and then still running, and aborted a run that was done."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    worker._part()
    assert not distributed.is_initialized()
    worker._part()  # of a run that never met the others
