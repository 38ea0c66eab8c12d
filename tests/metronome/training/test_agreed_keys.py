"""The keys of logged values are compared over devices where they are new, and not again."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metronome.training.logged.reducing import Reducer, Sent


class Looked(Reducer):
    """Of one device, whose table is its own; counts how often somebody waits for it."""

    waits = 0

    def table(self, digest: int) -> Tensor:
        looked = self

        class Table(Tensor):
            def tolist(self) -> Any:
                looked.waits += 1
                return super().tolist()

        return torch.tensor([[digest, 2.0], [digest**2, 4.0]], dtype=torch.float64).as_subclass(Table)


class OneDevice:
    world_size, strategy = 1, None


@pytest.mark.parametrize("steps", [4, 40])
def test_where_they_alternate(steps: int) -> None:
    reducer: Any = Looked(OneDevice())  # pyright: ignore
    for step in range(steps):
        digest = (11, 12)[step % 2]
        sent = Sent(digest, [True], ["loss"], reducer.table(digest), {}, [])
        assert float(reducer.received(sent)["loss"]) == 0.5
    assert reducer.waits == 2
