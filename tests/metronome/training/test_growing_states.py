"""States that grow with each batch are remembered before each batch, at the cost of what is new in them."""

from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import CatMetric
from torchmetrics.classification import BinaryAUROC

from metronome.training import Trainer
from metronome.training.logged.metrics import ListsSoFar, remember_metrics


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.auroc, self.cat = BinaryAUROC(), CatMetric()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.auroc.update(*batch)
        self.cat.update(batch[0])

    def on_validation_epoch_end(self) -> None:
        self.log("auroc", self.auroc.compute())


def values(module: Module) -> list[list[torch.Tensor]]:
    return [list(module.auroc.preds), list(module.auroc.target), list(module.cat.value)]  # pyright: ignore


def same(one: Any, other: Any) -> bool:
    return [list(map(id, part)) for part in one] == [list(map(id, part)) for part in other]


def test_put_back_as_often_as_asked() -> None:
    module, lists = Module(), ListsSoFar()

    def batch() -> Any:
        return torch.rand(4), torch.randint(2, (4,))

    for epoch in range(2):
        for i in range(5):
            put_back, before = remember_metrics(module, lists), values(module)
            for _ in range(2):
                module.validation_step(batch(), i)
                if i % 2:  # as torchmetrics does where a step's own value is computed
                    module.auroc.preds.clear()  # pyright: ignore
                    module.auroc.target = [torch.zeros(1)]
                put_back()
                assert same(values(module), before)
            module.validation_step(batch(), i)
            assert [len(value) for value in values(module)] == [i + 1] * 3, epoch
        module.auroc.reset()
        module.cat.reset()


def test_a_validation_looks_at_each_tensor_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a torchmetric is that of all tensors in it, so that not even its modules may be gone through."""
    hashes, plain = [0], torch.Tensor.__hash__

    def counted(tensor: torch.Tensor) -> int:
        hashes[0] += 1
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "__hash__", counted)
    found = []
    for batches in (20, 40):
        hashes[0] = 0
        data: Any = DataLoader([(0.001 * i, i % 2) for i in range(4 * batches)], batch_size=4)  # pyright: ignore
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
        Trainer(enable_checkpointing=False, **quiet).validate(Module(), data, verbose=False)
        found.append(hashes[0])
    assert found[1] <= 2 * found[0] + 40
