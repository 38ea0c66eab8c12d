"""The end of a search: its best trial, and how to see more. Imports nothing heavy."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metronome.app.sweeps.lines import best_lines, report_lines
from metronome.app.sweeps.place import forget
from metronome.app.sweeps.search import trials_finished_and_failed
from metronome.runs.best import Best, best_of
from metronome.runs.folders import RunFolder
from metronome.runs.names import RESULT_FILE


class AnnounceBest(Callback):
    """Says it when all trials have ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        forget()
        folder = Path(config.hydra.sweep.dir)
        paths = [path for path in folder.rglob(RESULT_FILE) if RunFolder(path.parent).status == "finished"]
        best = best_of(folder, [(path.parent, json.loads(path.read_text())) for path in paths])
        if not isinstance(best, Best):
            return
        finished, failed = trials_finished_and_failed(str(folder))
        lines = [f"{'trials':11}{finished} finished, {failed} failed"] if failed else []
        lines += best_lines(folder, best, f"{finished} trial{'s' * (finished != 1)}")
        print("\n" + "\n".join([*lines, *report_lines(folder)]), flush=True)
