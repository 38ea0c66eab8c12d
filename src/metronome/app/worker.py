"""One process of a run on several devices: `python -m metronome.app.worker FOLDER START`.

`run_processes` starts it.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from metronome.app.console.wrapped import Formatter
from metronome.app.errors.exits import EXIT_FAILED, sigterm_stops
from metronome.app.processes.start import config_file, end_with_parent, report_failure
from metronome.app.run.claim import Run
from metronome.app.train import train_in_one_of_several


def main(folder: Path, start: dict[str, Any]) -> None:
    end_with_parent()
    _log_to(folder)
    try:
        with sigterm_stops():
            train_in_one_of_several(Run.load(folder, start, config_file(folder)))
        _part()
    except Exception as error:
        report_failure(error)
        sys.exit(EXIT_FAILED)


def _part() -> None:
    """Leave the others in order. Left to the end of the process, the threads of the group may still run when they are
    taken down, and a run that did all it should ends with an abort."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _log_to(folder: Path) -> None:
    """As conf/hydra/job_logging/run.yaml, in the first process; the others keep quiet."""
    if rank_zero_only.rank != 0:
        logging.getLogger().addHandler(logging.NullHandler())
        return
    console, file = logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log")
    console.setFormatter(Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console, file])


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
