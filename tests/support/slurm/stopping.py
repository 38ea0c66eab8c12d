"""A sweep that is told to stop between two of its jobs."""

import os
import signal
from typing import Any

from hydra.experimental.callback import Callback


class StopAfterAJob(Callback):
    def on_job_end(self, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
