"""What the cases share, as anyone writes it for stock Lightning: data, a module, flags, and what a training leaves.

A case is a function of the class `Trainer` and of flags, that trains and returns what is left. It knows nothing of who
runs it with which Trainer. Everything is in float64 where it does not say otherwise: the default type is set so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

N, FEATURES, CLASSES = 23, 4, 3
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": 2,
}  # fmt: skip

_generator = torch.Generator().manual_seed(3)
X = torch.randn(N, FEATURES, generator=_generator, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (N,), generator=_generator)


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        kind: the file that it is in, by its name.
        name: what it is, in a few words.
        run: `run(Trainer, **flags)` trains, and returns what is left.
        right: the same in a way that is right under any Trainer, where stock Lightning's result is wrong; with `why`.
        not_exact: the row of "What is exact" in the engine's README that says that it cannot be cut exactly.
        cut: whether to cut its batches too.
        devices: whether it needs two processes.
        quick: whether it is among those that every run of the tests makes.
    """

    kind: str
    name: str
    run: Callable[..., Any]
    right: Callable[..., Any] | None = None
    why: str = ""
    not_exact: str = ""
    cut: bool = True
    devices: bool = False
    quick: bool = False


CASES: list[Case] = []


def case(name: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a function to the cases, in the order in which they are written."""

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append(Case(run.__module__.rpartition(".")[2].removeprefix("cases_of_"), name, run, **options))
        return run

    return add


def network(*layers: nn.Module) -> nn.Sequential:
    """The layers given, or a small network for `X` and `LABELS`; the same weights each time."""
    torch.manual_seed(1)
    return nn.Sequential(*(layers or (nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))))


def loader(batch_size: int = 6, **options: Any) -> DataLoader:
    """Batches of `X` and `LABELS`, by default 6, 6, 6 and 5 samples in their order."""
    return DataLoader(TensorDataset(X, LABELS), batch_size, **options)


class Net(L.LightningModule):
    """Classifies with a small network, cross-entropy and SGD with momentum."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net: Any = network() if net is None else net

    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, target)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, target = batch
        loss = self.loss(self.net(x), target)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, target = batch
        self.log("val/loss", nn.functional.cross_entropy(self.net(x), target))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def train(Trainer: Any, module: Any, data: Any, flags: dict[str, Any], **own: Any) -> dict[str, Any]:
    """Fit the module with the flags of the case and those that the runner gives; returns what is left."""
    validation = own.pop("validation", None)
    checkpoint = own.pop("ckpt_path", None)
    trainer = Trainer(**QUIET | own | flags)
    if isinstance(data, L.LightningDataModule):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    else:
        trainer.fit(module, data, validation, ckpt_path=checkpoint, weights_only=False)
    return left(trainer, module)


def left(trainer: Any, module: Any) -> dict[str, Any]:
    """Weights, optimizers, what was logged, and how far it came."""
    if trainer.world_size > 1:  # of the processes only the weights and what was logged come back
        return {"weights": copied(module.state_dict()), "logged": copied(dict(trainer.callback_metrics))}
    optimizers = [getattr(optimizer, "optimizer", optimizer).state_dict() for optimizer in trainer.optimizers]
    return {
        "weights": copied(module.state_dict()),
        "optimizers": copied(optimizers),
        "logged": copied(dict(trainer.callback_metrics)),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
    }


def copied(value: Any) -> Any:
    """The same with tensors that nobody changes any more."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list | tuple) else value


def files() -> list[str]:
    """All files that were written, from the folder that the case is run in."""
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def rows_of(folder: str) -> list[list[Any]]:
    """Of what CSVLogger has written: names, then numbers."""
    names, *rows = (Path(folder) / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    return [names.split(","), *[[float(cell) if cell else None for cell in row.split(",")] for row in rows]]
