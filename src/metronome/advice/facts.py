"""What a run is and did, as rules ask for it: from result.json and config.yaml, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from metronome.advice.gradients import Gradients
from metronome.runs.monitored import mode_in
from metronome.runs.nested import dig

HIGH = 0.25  # of the first loss, where a training has not come far


@dataclass(frozen=True)
class Facts:
    """Of a run; None, or nothing, for what it has not recorded.

    Attributes:
        config, result: as they are on disk.
        samples, batch_size, micro_batch_size, devices, accumulate: of the plan.
        steps, epochs: done.
        optimizer: the name of its class, in small letters.
        lr: as it was asked for, before schedules; `lr_key`: where. None if no key of the configuration sets it.
        val: the metric that is monitored at each validation; `monitor` its name, `val_steps`: when.
        val_is_low: whether low values of it are good, as far as anything says so.
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
    lr_key: str = "optimizer.lr"
    val: Sequence[float] = ()
    val_steps: Sequence[int] = ()
    val_epochs: Sequence[int] = ()
    monitor: str = "val/loss"
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
        key, rate = _rate(config, watched)
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
            optimizer=(target if key == "optimizer.lr" else str(watched.get("optimizer") or target))
            .rpartition(".")[2]
            .lower(),
            lr=rate,
            lr_key=key,
            val=[row[0] for row in rows],  # pyright: ignore
            val_steps=[int(row[1]) for row in rows],  # pyright: ignore
            val_epochs=[int(row[2]) for row in rows],  # pyright: ignore
            monitor=_monitor(result, config, watched),
            val_is_low=_mode(result, config, watched) == "min",
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
    def is_high(self) -> bool:
        """Whether the training loss ends at a good part of the first."""
        return bool(self.train) and self.train[-1] > HIGH * (self.first_loss or self.train[0])

    @property
    def batch_grows(self) -> bool:
        growth = dig(self.config, "data.batch_growth")  # always there; without a factor it says that nothing grows
        return growth.get("factor") not in (None, 1) if isinstance(growth, dict) else bool(growth)

    @property
    def is_over_mini_batches(self) -> bool:
        return bool(self.batch_size and self.samples and self.batch_size < self.samples)

    @property
    def is_diverged(self) -> bool:
        """Whether loss or gradient were not finite, and the run ended there or these steps were left out."""
        return bool(self.result.get("nonfinite"))


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None


def _monitor(result: dict[str, Any], config: dict[str, Any], watched: dict[str, Any]) -> str:
    return str(watched.get("monitor") or dig(result, "best.monitor") or config.get("monitor") or "val/loss")


def _mode(result: dict[str, Any], config: dict[str, Any], watched: dict[str, Any]) -> str | None:
    """`min` or `max` of what was monitored: as the run has seen it, else as its configuration or the name tells. In a
    configuration it is mostly left open."""
    seen = watched.get("mode") if watched.get("monitor") else dig(result, "best.mode")
    return seen or mode_in(config, _monitor(result, config, watched))


_RATES = ("optimizer.lr", "model.optimizer.lr", "model.lr", "model.learning_rate")


def _rate(config: dict[str, Any], watched: dict[str, Any]) -> tuple[str, float | None]:
    """The key that sets the rate of the optimizer, and its value. A module may take no notice of the group
    `optimizer`, which is in each configuration: a flag for it would change nothing."""
    given, seen = number(dig(config, "optimizer.lr")), number(watched.get("lr"))
    if isinstance(dig(config, "model.optimizer"), dict) or seen is None:
        return "optimizer.lr", given
    for key in _RATES:
        if number(dig(config, key)) == seen:
            return key, seen
    return "", None


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(column: Any) -> list[float | None]:
    return [number(value) for value in column] if isinstance(column, list) else []
