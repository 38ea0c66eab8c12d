"""The plan of a run, to be read beside its curves."""

from dataclasses import asdict
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from metronome.training import Trainer
from metronome.units import Plan

MAX_EPOCHS_SHOWN = 20


class PlanText(Callback):
    """Writes the plan as the text `plan` into TensorBoard when the training starts."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Asked for on every device, since all may have to meet to load a foreign loader.
        plan = trainer.plan if isinstance(trainer, Trainer) else None
        if plan is None or not trainer.is_global_zero or trainer.global_step > 0:
            return  # a run that goes on has it in its logs
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("plan", plan_markdown(plan), 0)


def plan_markdown(plan: Plan) -> str:
    """The plan's numbers as a Markdown table; where the batch grows, another of the first epochs."""
    numbers = plan.as_dict()
    del numbers["per_epoch"]
    epochs = [asdict(epoch) for epoch in plan.per_epoch]
    text = _table(["plan", ""], [[name, _cell(value)] for name, value in numbers.items()])
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
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}"
