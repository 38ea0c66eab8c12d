"""A training's course in at most 200 rows: one for each validation, or for several where there are more."""

from dataclasses import asdict, dataclass, fields
from math import sqrt
from typing import Any

MOST_ROWS = 200


@dataclass
class Row:
    """What was between two validations (or ends of epochs, where nothing is validated).

    Attributes:
        step, epoch, samples: done by its end.
        losses: training losses of single steps that were looked at in it.
        mean, squares: their mean, and the sum of their squared distances from it.
        val: the monitored metric at its end.
        lr: the learning rate at its end.
    """

    step: int
    epoch: int
    samples: int
    losses: int = 0
    mean: float = 0.0
    squares: float = 0.0
    val: float | None = None
    lr: float | None = None

    def add(self, loss: float) -> None:
        self.losses += 1
        before = loss - self.mean
        self.mean += before / self.losses
        self.squares += before * (loss - self.mean)

    def joined(self, later: "Row") -> "Row":
        """This row and the one after it as one: the losses of both, the end of the later."""
        count = self.losses + later.losses
        if not count:
            return later
        apart = later.mean - self.mean
        mean = self.mean + apart * later.losses / count
        squares = self.squares + later.squares + apart**2 * self.losses * later.losses / count
        return Row(later.step, later.epoch, later.samples, count, mean, squares, later.val, later.lr)


class History:
    """Rows in their order. Where there are too many, every two become one, and later ones are as long as these."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.of_each = 1  # ends in a row
        self._ends = 0  # in the last row

    def end(self, row: Row) -> None:
        """The row that is complete now."""
        if self.rows and self._ends < self.of_each:
            self.rows[-1] = self.rows[-1].joined(row)
        else:
            self.rows.append(row)
            self._ends = 0
        self._ends += 1
        if len(self.rows) > MOST_ROWS:
            odd = self.rows[-1:] if len(self.rows) % 2 else []
            self.rows = [a.joined(b) for a, b in zip(self.rows[::2], self.rows[1::2], strict=False)] + odd
            self._ends = self._ends if odd else self._ends + self.of_each
            self.of_each *= 2

    def state(self) -> dict[str, Any]:
        return {"rows": [list(asdict(row).values()) for row in self.rows], "of_each": self.of_each, "ends": self._ends}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows = [Row(*row) for row in state["rows"]]
        self.of_each, self._ends = state["of_each"], state["ends"]

    def columns(self) -> dict[str, list[Any]]:
        """Column by column, for result.json: short numbers, and the losses' standard deviation."""
        names = [f.name for f in fields(Row) if f.name not in ("mean", "squares", "losses")]
        found: dict[str, list[Any]] = {name: [_short(getattr(row, name)) for row in self.rows] for name in names}
        found["train"] = [_short(row.mean) if row.losses else None for row in self.rows]
        deviations = [sqrt(row.squares / (row.losses - 1)) if row.losses > 1 else None for row in self.rows]
        return found | {"train_std": [_short(value) for value in deviations]}


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
