"""The plan of a run, to be read beside its curves."""

from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from metronome.training import Trainer
from metronome.units import Plan

MAX_EPOCHS_SHOWN = 20


class PlanText(Callback):
    """Writes the plan as the text `plan` into TensorBoard when the training starts, and beside it what the app says of
    the run: its command, its configuration.

    A run that goes on has its texts in its logs; those that are other ones now are written once more, at the step where
    it goes on.

    Args:
        texts: more texts in Markdown, by tag; the app puts those of its run here.
    """

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self.texts = dict(texts or {})
        self._written: dict[str, str] = {}  # a digest of each, by tag

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._written = {}

    def state_dict(self) -> dict[str, Any]:
        return {"written": dict(self._written)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._written = dict(state_dict["written"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Asked for on every device, since all may have to meet to load a foreign loader.
        plan = trainer.plan if isinstance(trainer, Trainer) else None
        if not trainer.is_global_zero:
            return
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for tag, text in (self.texts | ({} if plan is None else {"plan": plan_markdown(plan)})).items():
            digest = sha256(text.encode()).hexdigest()
            if loggers and self._written.get(tag) != digest:
                self._written[tag] = digest
                for logger in loggers:
                    logger.experiment.add_text(tag, text, trainer.global_step)


def plan_markdown(plan: Plan) -> str:
    """The plan's numbers as a Markdown table; where the batch grows, another of the first epochs."""
    numbers = plan.as_dict()
    del numbers["per_epoch"]
    sets: dict[str, Any] = numbers.pop("sets", {})  # of a mixture
    epochs = [asdict(epoch) for epoch in plan.per_epoch]
    text = _table(["plan", ""], [[name, _cell(value)] for name, value in numbers.items()])
    if sets:
        columns = list(next(iter(sets.values())))
        rows = [[name, *(_cell(numbers[column]) for column in columns)] for name, numbers in sets.items()]
        text += "\n\n" + _table(["set", *columns], rows)
    if len({epoch["batch_size"] for epoch in epochs}) == 1:
        return text
    shown = epochs[:MAX_EPOCHS_SHOWN]
    text += "\n\n" + _table(list(shown[0]), [[_cell(value) for value in epoch.values()] for epoch in shown])
    assert plan.epochs is not None, "epochs of different batches are listed only where their number is known"
    more = plan.epochs - len(shown)
    return text + (f"\n\nand {more:,} more" if more else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
