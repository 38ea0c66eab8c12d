"""What TensorBoard's text tab says of a run: the command and the configuration from its start, the rest at its end."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from metronome.app.run.claim import Run
from metronome.app.run.result import Result
from metronome.insight.text_tab import advice_text, command_text, configuration_text, result_text, write_texts
from metronome.runs.overrides import GOING_ON

_NOTHING = object()


def texts_of(run: Run) -> dict[str, str]:
    """The texts that are known before the training. How a run goes on is no value of it, and stands in the command."""
    config = {key: value for key, value in run.config.items() if key not in GOING_ON}
    # The model's optimizer is that of the group, by whose key it is changed.
    config["model"] = {key: value for key, value in config["model"].items() if value != config.get(key, _NOTHING)}
    return {
        "command": command_text("scripts/train.py", run.overrides),
        "configuration": configuration_text(config, run.overrides),
    }


class TextsAtTheEnd:
    """Around `Result`: what it has written goes into TensorBoard's text tab too, whatever the end was like.

    By the process that claimed the run, in a file of its own: the loggers are closed by then, or another process's. A
    run that goes on takes that file back, as all that was logged after its checkpoint.
    """

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._result: Result | None = None

    def follow(self, trainer: Any, result: Result) -> None:
        """Where the trainer logs, and the result that will be told there."""
        self._folders = [Path(log.log_dir) for log in trainer.loggers if isinstance(log, TensorBoardLogger)]
        self._result = result

    def __enter__(self) -> "TextsAtTheEnd":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._result is None or not self._result.is_written:
            return
        content = self._result.content
        texts = {"result": result_text(content), "advice": advice_text(content["advice"])}
        for folder in self._folders:
            with suppress(OSError):  # the result is in its file, and a full disk must not fail a run that has ended
                write_texts(folder, texts, (content["progress"] or {}).get("steps", 0))
