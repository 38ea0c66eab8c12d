"""A step that ran out of memory is done again as if it had not been begun: batch and weights are as they were."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from metronome.training import Trainer
from metronome.units import RunFailed

STEPS, B = 4, 8
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(STEPS, B, 3, generator=DRAWN, dtype=torch.float64)


class Batches:
    """New ones in each epoch, as a loader makes them."""

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        return iter([{"x": x.clone(), "y": x.sum(1, keepdim=True), "extra": {"scale": 0.5}, "rows": [x]} for x in X])


class Changes(L.LightningModule):
    """Takes keys out of its batch, writes into its tensors, and moves a teacher; short in the step `fails`."""

    def __init__(self, changes: str, fails: int | None = None, since: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3, 1).double()
        self.teacher = nn.Linear(3, 1).double()
        self.changes, self.fails, self.since = changes, fails, since

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, scale = batch["x"], batch["y"], batch["extra"]["scale"]
        is_short = self.fails == batch_idx and len(x) > B // 2
        if self.changes == "keys":
            y, scale = batch.pop("y"), batch["extra"].pop("scale")
            batch["rows"].append(x)
        if batch_idx >= self.since and self.changes == "values":
            x *= scale
        if batch_idx >= self.since and self.changes == "weights" and torch.equal(x[0], X[batch_idx][0]):  # once a batch
            with torch.no_grad():
                for mine, its in zip(self.layer.parameters(), self.teacher.parameters(), strict=True):
                    its.lerp_(mine, 0.1)
        if is_short:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return ((self.layer(x) - scale * y - self.teacher(x).detach()) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.layer.parameters(), lr=0.05)


QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                         "accelerator": "cpu", "max_epochs": 1}  # fmt: skip


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def plain(module: Changes) -> Tensor:
    optimizer = module.configure_optimizers()
    for step, batch in enumerate(Batches()):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    return weights(module)


@pytest.mark.parametrize("changes", ["nothing", "keys", "values", "weights"])
@pytest.mark.parametrize("fails", [0, 2])
def test_the_step_is_done_again_with_the_batch_as_it_was(changes: str, fails: int) -> None:
    module, run = Changes(changes, fails), Trainer(accumulate_grad_batches="auto", **QUIET)
    run.fit(module, Batches())
    assert (len(run.state_of_training.out_of_memory), run.accumulate) == (1, 2)
    torch.testing.assert_close(weights(module), plain(Changes(changes)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("changes", "words"), [("values", "the batch"), ("weights", "teacher.weight")])
def test_what_is_changed_for_the_first_time_in_a_later_step_is_said(changes: str, words: str) -> None:
    """Nobody copies all of it in each step."""
    with pytest.raises(RunFailed, match=rf"step 3, which cannot be done again: training_step has changed {words} in"):
        Trainer(accumulate_grad_batches="auto", **QUIET).fit(Changes(changes, 2, since=2), Batches())


class Counts(Changes):
    """Keeps counters and containers on itself; begins with it in the step `since`."""

    def __init__(self, fails: int | None, since: int, rows: int = 0) -> None:
        super().__init__("nothing", fails, since)
        self.count, self.rows = 0, list(range(rows))
        self.nested: dict[str, Any] = {"totals": {"n": 0}}
        self.recent, self.labels = deque(maxlen=3), set()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx >= self.since:
            self.count += len(batch["x"])
            self.rows.extend(batch["x"][:, 0].tolist())
            self.recent.append(batch_idx)
            self.nested["totals"]["n"] += len(batch["x"])
            self.nested[str(len(batch["x"]))] = self.labels.add(batch_idx)
            self.last = batch_idx
        return super().training_step(batch, batch_idx)

    def kept(self) -> Any:
        return self.count, self.rows, self.nested["totals"], self.labels, self.recent[-1], self.last


@pytest.mark.parametrize("rows", [0, 2_000])
@pytest.mark.parametrize(("fails", "since"), [(0, 0), (2, 0), (2, 2)])
def test_what_the_module_keeps_is_as_it_was(fails: int, since: int, rows: int) -> None:
    """In whichever step it is kept for the first time."""
    module, whole = Counts(fails, since, rows), Counts(None, since, rows)
    run = Trainer(accumulate_grad_batches="auto", **QUIET)
    run.fit(module, Batches())
    torch.testing.assert_close(weights(module), plain(whole), rtol=1e-12, atol=1e-14)
    assert run.accumulate == 2
    assert module.kept() == whole.kept()
    assert ("8" in module.nested) is (since < fails)


def test_a_long_container_that_cannot_be_put_back_is_said() -> None:
    class Forgets(Changes):
        recent: Any

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.recent.append(batch_idx)
            return super().training_step(batch, batch_idx)

    module = Forgets("nothing", 2)
    module.recent = deque(range(2_000), maxlen=2_000)
    with pytest.raises(
        RunFailed, match=r"step 3, which cannot be done again: training_step has changed self\.recent in"
    ):
        Trainer(accumulate_grad_batches="auto", **QUIET).fit(module, Batches())
