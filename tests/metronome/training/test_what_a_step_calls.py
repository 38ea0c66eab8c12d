"""What the smallest step calls, so that what it costs cannot creep back; never how long it takes.

Lightning's own loop calls every hook of everybody at each step, most of which do nothing: that was nearly all that a
small step cost.
"""

from typing import Any

import lightning as L
import pytest
import torch
from calls import FunctionCalls, Small, TensorReads
from torch.utils.data import DataLoader, TensorDataset

from metronome.data import DataModule, Splits
from metronome.training import Trainer

X = torch.randn(200, 4)

NONE = {
    "Module.__setattr__": 0,  # how Lightning notes the name of each hook on the module; here past it
    "profile": 0,  # the contexts of a profiler, one around each hook; without a profiler none
    "Profiler.start": 0,
    "inspect.signature": 0,  # what training_step takes is asked once a fit
    "inspect.getfullargspec": 0,
    "overrides.is_overridden": 0,  # and so is what is overridden
    "Logger.debug": 0,  # Lightning writes down each hook that it calls
    "_call_callback_hooks": 0,  # its ways of calling hooks
    "_call_lightning_module_hook": 0,
    "_call_strategy_hook": 0,
    "apply_func.apply_to_collection": 0,  # a walk over a batch, to move it to where it is
    "LightningOptimizer.step": 0,  # the optimizer is stepped itself
    "_BaseDataLoaderIter.__next__": 0,  # a batch is read straight from the data set
    "tolist": 0, "numpy": 0, "cpu": 0,
}  # fmt: skip
ONE = {
    "Small.training_step": 1,
    "Module._call_impl": 1,  # its one layer
    "Tensor.backward": 1,
    "SGD.step": 1,
    "BatchReader.read": 1,  # a batch is read at once, not sample by sample
}
# Is the step finite? The loss, and what is found in all gradients at once: on the CPU nobody waits for them. Nothing
# else reads a number.
READS = {"item": 2}


class Data(DataModule):
    def load(self) -> Splits:
        return Splits(train=(X, X.sum(1, keepdim=True)))


def fit(counts: Any, kind: type[L.Trainer] = Trainer, micro_batches: int = 1, logs: bool = False, **data: Any) -> Any:
    """A fit whose steps are counted."""
    flags: dict[str, Any] = {"accumulate_grad_batches": micro_batches} if micro_batches > 1 else {}
    run = kind(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **flags,
    )  # fmt: skip
    run.fit(Small(counts, micro_batches, logs), **data or {"datamodule": Data(batch_size=8)})
    return counts


def loader() -> DataLoader:
    return DataLoader(TensorDataset(X, X.sum(1, keepdim=True)), batch_size=8)


def test_a_step() -> None:
    calls = fit(FunctionCalls())
    expected = NONE | ONE | READS
    assert calls.in_a_step(*expected) == expected
    # What is left of Lightning: its counters, and properties of the Trainer, of two or three lines each.
    assert calls.of_package("lightning") <= 48


def test_numbers_are_read_in_no_other_way() -> None:
    """As `if tensor` or `float(tensor)` would; and nothing is copied to another device or type."""
    assert fit(TensorReads()).in_a_step == {"aten::_local_scalar_dense": 2, "aten::_to_copy": 0}


def test_a_loader_of_the_users() -> None:
    """It is asked for each batch, and Lightning's fetcher and joiner of loaders, which stand before it, are not."""
    expected = {name: n for name, n in (NONE | ONE | READS).items() if name != "BatchReader.read"}
    expected |= {"_BaseDataLoaderIter.__next__": 1, "_DataFetcher.__next__": 0, "CombinedLoader.__next__": 0}
    assert fit(FunctionCalls(), train_dataloaders=loader()).in_a_step(*expected) == expected


def test_a_step_that_logs_a_value() -> None:
    more = {
        "LightningModule.log": 1,
        "Results.update_metrics": 1,
        "inspect.getfullargspec": 1,  # `self.log` asks whether training_step takes an iterator
        # Three in `self.log`, which looks for what cannot be logged, and for tensors that are no numbers.
        "apply_func.apply_to_collection": 3,
    }
    expected = NONE | ONE | READS | more
    assert fit(FunctionCalls(), logs=True).in_a_step(*expected) == expected
    # The value stays on its device until it is handed to a logger.
    assert fit(TensorReads(), logs=True).in_a_step == {"aten::_local_scalar_dense": 2, "aten::_to_copy": 0}


@pytest.mark.parametrize("logs", [False, True], ids=["", "logs"])
def test_a_further_micro_batch(logs: bool) -> None:
    """One forward and one backward pass, and what the module does in it; of a step's bookkeeping nothing."""
    names = [*NONE, *ONE, *READS, "Hooks.__call__", "LightningModule.log", "Results.update_metrics"]
    whole, cut = (fit(FunctionCalls(), micro_batches=k, logs=logs).in_a_step(*names) for k in (1, 8))
    further = {name: (cut[name] - whole[name]) / 7 for name in names}
    expected = dict.fromkeys(names, 0.0) | {
        "Small.training_step": 1,
        "Module._call_impl": 1,
        "Tensor.backward": 1,
        "Hooks.__call__": 2,  # whether anybody wants to know of it before, and after, the backward pass
    }
    if logs:
        expected |= {"LightningModule.log": 1, "Results.update_metrics": 1, "inspect.getfullargspec": 1}
    del (
        further["apply_func.apply_to_collection"],
        expected["apply_func.apply_to_collection"],
    )  # in the user's `self.log`
    assert further == expected
    assert fit(TensorReads(), micro_batches=8, logs=logs).in_a_step["aten::_local_scalar_dense"] == 2


def test_the_count_sees_what_it_counts() -> None:
    """Lightning's own Trainer does all of this, or the tests above prove nothing."""
    calls = fit(FunctionCalls(), L.Trainer, train_dataloaders=loader(), logs=True)
    never = ("Profiler.start", "inspect.signature", "tolist", "numpy", "cpu")
    found = calls.in_a_step(*NONE)
    assert {name for name, n in found.items() if n == 0} <= set(never)
    assert found["Module.__setattr__"] > 40
    assert found["profile"] > 20
    counts = FunctionCalls()
    counts(True)
    for read in (X.tolist, X.numpy, X.cpu, X.sum().item):
        read()
    counts(False)
    assert [counts[f"Tensor.{name}"] for name in ("tolist", "numpy", "cpu", "item")] == [1, 1, 1, 1]
    reads = TensorReads()
    reads(True)
    assert float(torch.ones(())) == int(torch.ones(()))
    assert torch.ones(())
    torch.ones(()).double()
    reads(False)
    assert reads.in_a_step == {"aten::_local_scalar_dense": 0.3, "aten::_to_copy": 0.1}
