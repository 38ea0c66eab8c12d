"""What a run is and did, as rules ask for it: from result.json and config.yaml, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from metronome.advice.gradients import Gradients


@dataclass(frozen=True)
class Facts:
    """Of a run; None, or nothing, for what it has not recorded.

    Attributes:
        config, result: as they are on disk.
        samples, batch_size, micro_batch_size, devices, accumulate: of the plan.
        steps, epochs: done.
        optimizer: the name of its class, in small letters.
        lr: as it was asked for, before schedules.
        val: the metric that is monitored at each validation; `val_steps`: when.
        val_is_low: whether low values of it are good.
        train: the mean training loss between validations; `train_std` the standard deviation of a step's.
        rates: the learning rates there.
        gradients: the evidence of gradients made beside the training.
        step_ms: where the time of a step goes.
    """

    config: dict[str, Any]
    result: dict[str, Any]
    samples: int | None = None
    batch_size: int | None = None
    micro_batch_size: int | None = None
    devices: int = 1
    accumulate: int = 1
    steps: int = 0
    epochs: int = 0
    optimizer: str = ""
    lr: float | None = None
    val: Sequence[float] = ()
    val_steps: Sequence[int] = ()
    val_epochs: Sequence[int] = ()
    val_is_low: bool = True
    train: Sequence[float] = ()
    train_std: Sequence[float] = ()
    rates: Sequence[float] = ()
    gradients: Gradients = field(default_factory=Gradients)
    step_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, result: dict[str, Any], config: dict[str, Any]) -> "Facts":
        """Of what a run has left; whatever is damaged or missing in it is not known."""
        plan, watched = _table(result.get("plan")), _table(result.get("watched"))
        history = {name: _numbers(column) for name, column in _table(watched.get("history")).items()}
        val, steps, epochs = (history.get(name, []) for name in ("val", "step", "epoch"))
        rows = [row for row in zip(val, steps, epochs, strict=False) if None not in row]
        target = str(dig(config, "optimizer._target_") or "")
        checkpoint = _table(dig(config, "callbacks.checkpoint"))
        return cls(
            config=config,
            result=result,
            samples=_whole(plan.get("num_samples")),
            batch_size=_whole(plan.get("batch_size")),
            micro_batch_size=_whole(plan.get("micro_batch_size")),
            devices=_whole(plan.get("devices")) or 1,
            accumulate=_whole(plan.get("accumulate_grad_batches")) or 1,
            steps=_whole(dig(result, "progress.steps")) or 0,
            epochs=_whole(dig(result, "progress.epochs")) or 0,
            optimizer=target.rpartition(".")[2].lower(),
            lr=number(dig(config, "optimizer.lr")),
            val=[row[0] for row in rows],  # pyright: ignore
            val_steps=[int(row[1]) for row in rows],  # pyright: ignore
            val_epochs=[int(row[2]) for row in rows],  # pyright: ignore
            # Of the result: in the configuration it is null where it was worked out from the metric.
            val_is_low=(dig(result, "best.mode") or checkpoint.get("mode")) != "max",
            train=[value for value in history.get("train", []) if value is not None],
            train_std=[value for value in history.get("train_std", []) if value is not None],
            rates=[value for value in history.get("lr", []) if value is not None],
            gradients=Gradients.of(_table(watched.get("gradients"))),
            step_ms={str(k): v for k, value in _table(watched.get("step_ms")).items() if (v := number(value))},
        )

    @property
    def watched(self) -> dict[str, Any]:
        return _table(self.result.get("watched"))

    def seconds(self, part: str) -> float:
        return number(dig(self.result, f"seconds.{part}")) or 0.0

    @property
    def on_cpu(self) -> bool:
        return self.watched.get("device", "cpu") == "cpu"

    @property
    def first_loss(self) -> float | None:
        """The training loss before anything was learnt."""
        return number(self.watched.get("first_loss"))

    @property
    def batch_grows(self) -> bool:
        return bool(dig(self.config, "data.batch_growth"))

    @property
    def is_over_mini_batches(self) -> bool:
        return bool(self.batch_size and self.samples and self.batch_size < self.samples)

    @property
    def is_diverged(self) -> bool:
        """Whether loss or gradient were not finite, and the run ended there or these steps were left out."""
        return bool(self.result.get("nonfinite"))


def dig(config: Any, key: str) -> Any:
    """What lies below a key with dots; None where there is nothing."""
    for name in key.split("."):
        if not isinstance(config, dict):
            return None
        config = config.get(name)
    return config


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(column: Any) -> list[float | None]:
    return [number(value) for value in column] if isinstance(column, list) else []
