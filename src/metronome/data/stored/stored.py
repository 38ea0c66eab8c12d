"""What a column is that stays where it is stored, and of which only the rows of a batch are read."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np


class Stored(ABC):
    """A column, or several under names, read a whole batch at a time.

    Reading gives the tensors that the same rows would be if all were in memory, so that a training has the same
    weights. What is sent to a worker process is where the data are, never the data.

    Attributes:
        fill: where rows are as long as the longest of their batch: what stands behind a shorter one, as a batch has it.
    """

    fill: Any = None

    @abstractmethod
    def __len__(self) -> int:
        """Rows, which are samples."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> Any:
        """These rows, in this order: a tensor with a row for each, or a dict of such.

        Args:
            rows: int64, shape (rows,), in any order, from 0 to the length - 1.
        """
