"""What is told of a grid: the lines of jobs that run elsewhere, and at the end the best. Imports nothing heavy."""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from metronome.app.sweeps.cluster import jobs_in_queue
from metronome.app.sweeps.lines import best_lines, failed_lines, job_line, report_lines, seconds
from metronome.app.sweeps.place import Place, forget
from metronome.runs.best import Best, best_of
from metronome.runs.names import RESULT_FILE, SWEEP_FILE
from metronome.runs.order import order_of, place_in
from metronome.runs.sweeps import own_overrides

POLL_SECONDS = 2.0
_KINDS = ("finished", "finished before", "failed", "failed before", "stopped", "without a result")
# Whose jobs say their lines themselves, to this terminal.
_SPEAK_HERE = ("BasicLauncher", "JoblibLauncher")


class Table:
    """The jobs of a sweep, each a list of overrides, and what their folders say of them."""

    def __init__(self, sweep: Path, jobs: Sequence[Sequence[str]], launcher: Any) -> None:
        self.sweep, self.jobs, self.order = sweep, jobs, order_of(jobs)
        self.launcher = type(launcher).__name__
        self.began = (sweep / SWEEP_FILE).stat().st_mtime_ns  # by the clock of the disk that the results are on
        self.place = Place.of_jobs(sweep, jobs)
        self.told: set[int] = set()
        self._lock = threading.Lock()
        self.place.put()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While jobs are made: those that cannot speak here have their lines as they end."""
        if self.launcher in _SPEAK_HERE:
            yield
            return
        jobs = f"{len(self.jobs)} jobs" if len(self.jobs) > 1 else "1 job"
        print(f"{jobs} with {self.launcher}: a line for each that ends", flush=True)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(POLL_SECONDS):
                self._tell(new_ones=True)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self._tell()

    def end(self, failures: dict[int, Exception], speaks_of_best: bool = True) -> None:
        """Jobs that have left nothing, the number of those that failed, the best, and how to see more.

        Args:
            failures: by number from 1 on, why jobs have failed.
            speaks_of_best: not where something else does.
        """
        forget()
        if os.environ.get("RANK", "0") != "0":
            return  # the first of the processes that torchrun has started speaks for all
        found = self._ended()
        if self.launcher not in _SPEAK_HERE:
            for number in [number for number in range(1, len(self.jobs) + 1) if number not in found]:
                why = failures.get(number, "no result; the launcher's logs say why")
                print(failed_lines(self._place(number), self._own(number), f"failed: {why}", self.sweep))
        lines = self._counts(found, failures)
        if speaks_of_best:
            ended = [run for number, run in found.items() if number not in failures]
            finished = [run for run in ended if run[1]["status"] == "finished"]
            best = best_of(self.sweep, finished)
            if isinstance(best, Best) and len(self.jobs) > 1:
                lines += best_lines(self.sweep, best, f"{len(finished)} run{'s' * (len(finished) != 1)}")
            elif isinstance(best, str) and best:
                lines.append(f"no best is named: {best}")
            lines += report_lines(self.sweep) if found else []
        if lines:
            print("\n" + "\n".join(lines), flush=True)

    def interrupted(self) -> None:
        """Someone has stopped the sweep: how to see what is there, and to go on."""
        forget()
        lines = report_lines(self.sweep, "so far") if self._ended() else []
        if numbers := jobs_in_queue(self.sweep):
            lines.append(f"{'queue':11}the jobs stay in it; to end them: scancel {' '.join(numbers)}")
        print("\n".join([*lines, f"{'go on':11}the same command with resume=auto"]), file=sys.stderr, flush=True)

    def _ended(self) -> dict[int, tuple[Path, dict[str, Any]]]:
        """By number, the folders of jobs that have ended, and their results."""
        found: dict[int, tuple[Path, dict[str, Any]]] = {}
        for file in self.sweep.rglob(RESULT_FILE):
            try:
                result = json.loads(file.read_text())
                number = place_in(self.order, result["overrides"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if number is not None:
                found[number] = (file.parent, result)
        return dict(sorted(found.items()))

    def _is_from_before(self, folder: Path) -> bool:
        return (folder / RESULT_FILE).stat().st_mtime_ns < self.began

    def _tell(self, new_ones: bool = False) -> None:
        """The lines of jobs that have none yet; `new_ones`: only of those that ended since the start."""
        for number, (folder, content) in self._ended().items():
            before = self._is_from_before(folder)
            # One that was told to stop may be started again by its cluster.
            if number in self.told or (new_ones and (before or content["status"] == "stopped")):
                continue
            self.told.add(number)
            print(ended_lines(self._place(number), self._own(number), folder, content, before), flush=True)

    def _counts(self, found: dict[int, tuple[Path, dict[str, Any]]], failures: Mapping[int, Exception]) -> list[str]:
        """How many jobs there are of each kind, where not all are finished now."""
        kinds = Counter(self._kind(number, found.get(number), failures) for number in range(1, len(self.jobs) + 1))
        if set(kinds) <= {"finished"}:
            return []
        lines = [f"{'jobs':11}{', '.join(f'{kinds[kind]} {kind}' for kind in _KINDS if kinds[kind])}"]
        if set(kinds) & set(_KINDS[2:]):
            lines.append(f"{'':11}to try again what is not finished: the same command with resume=retry")
        return lines

    def _kind(self, number: int, found: tuple[Path, dict[str, Any]] | None, failures: Mapping[int, Exception]) -> str:
        if number in failures:  # whatever is in the folder: it may have been refused now
            return "failed before" if getattr(failures[number], "is_from_before", False) else "failed"
        if found is None:
            return "without a result"
        before, status = self._is_from_before(found[0]), found[1]["status"]
        return f"{status} before" if before and status in ("finished", "failed") else status

    def _own(self, number: int) -> list[str]:
        return own_overrides(self.jobs[number - 1], self.sweep)

    def _place(self, number: int) -> Place:
        return replace(self.place, number=number)


def ended_lines(place: Place, own: Sequence[str], folder: Path, content: dict[str, Any], before: bool = False) -> str:
    """What there is to say of a job that has a result."""
    if content["status"] == "finished":
        return job_line(place, own, content, "finished before" if before else seconds(content))
    when = " before" if before else ""
    reason = f": {content['error']}" if content.get("error") else ""
    return failed_lines(place, own, f"{content['status']}{when}{reason}", folder)
