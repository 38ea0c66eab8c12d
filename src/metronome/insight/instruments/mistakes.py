"""What a classifier takes for what: counted over an evaluation, and its worst mistakes kept, on the device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metronome.insight.instruments.log_points import GROUP
from metronome.insight.instruments.pictures import confusion_picture, mistakes_picture
from metronome.training import Trainer
from metronome.units import check_number


@dataclass
class Seen:
    """What an evaluation has shown so far.

    Attributes:
        counts: samples by class and by what they were taken for, shape (classes, classes).
        losses: of the worst mistakes, falling; -inf where there are fewer, shape (kept,).
        inputs, labels, taken_for, certainty: of the same samples; the probability that the module gave its answer.
    """

    counts: Tensor
    losses: Tensor
    inputs: Tensor
    labels: Tensor
    taken_for: Tensor
    certainty: Tensor

    @classmethod
    def nothing(cls, inputs: Tensor, logits: Tensor, kept: int) -> "Seen":
        classes, device = logits.shape[-1], logits.device
        whole = torch.zeros(kept, dtype=torch.int64, device=device)
        return cls(
            torch.zeros(classes, classes, dtype=torch.int64, device=device),
            torch.full((kept,), -torch.inf, device=device),
            torch.zeros(kept, *inputs.shape[1:], dtype=inputs.dtype, device=device),
            whole, whole, torch.zeros(kept, device=device),
        )  # fmt: skip

    def add(self, inputs: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A batch more; no device is waited for. Labels that are none of a class count nothing."""
        classes, logits, labels = self.counts.shape[0], logits.float(), labels.long()
        is_known = (labels >= 0) & (labels < classes)
        known = labels.clamp(0, classes - 1)
        certainty, taken_for = logits.softmax(dim=1).max(dim=1)
        self.counts.view(-1).index_add_(0, known * classes + taken_for, is_known.long())
        losses = cross_entropy(logits, known, reduction="none")
        losses = torch.where(is_known & (taken_for != known), losses, -torch.inf)
        self.keep(losses, inputs, known, taken_for, certainty)

    def keep(self, losses: Tensor, *of_samples: Tensor) -> None:
        """Of these samples and those kept, the worst."""
        self.losses, which = torch.cat([self.losses, losses]).topk(len(self.losses))
        names = ("inputs", "labels", "taken_for", "certainty")
        for name, new in zip(names, of_samples, strict=True):
            setattr(self, name, torch.cat([getattr(self, name), new])[which])


class Mistakes(Callback):
    """For a classifier, images in TensorBoard at the end of the test and of the last validation.

    They are which classes are taken for which (`watch/test_confusion`), and where inputs are images the worst mistakes
    (`watch/test_mistakes`), those with the largest loss.

    It looks at the outputs of the module as they are made: no sample is evaluated again. Which validation is the last
    is known where the plan knows its steps. A module is a classifier that has `num_classes`, and whose batches are
    `(inputs, labels)`; with any other it does nothing.

    Args:
        kept: how many mistakes to show.
        every_validation: at each validation, and not only at the last.

    Raises:
        InputError: for `kept` below 1.
    """

    def __init__(self, kept: int = 16, every_validation: bool = False) -> None:
        check_number("callbacks.mistakes.kept", kept, "mistakes")
        self.kept, self.every_validation = kept, every_validation
        self._seen: Seen | None = None
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._hook: Any = None

    # ---- the hooks of an evaluation ------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and isinstance(trainer, Trainer) and trainer.state.fn == TrainerFn.FITTING:
            plan = trainer.plan
            total = None if plan is None else plan.total_steps
            if self.every_validation or trainer.should_stop or (total is not None and trainer.global_step >= total):
                self._begin(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *indices: int) -> None:
        if self._hook is not None:
            self._add(batch, trainer.fit_loop.epoch_loop.val_loop.counts)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *indices: int) -> None:
        if self._hook is not None:
            self._add(batch, trainer.test_loop.counts)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._hook is not None:
            self._end(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._hook is not None:
            self._end(trainer, pl_module, "test")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._forget()

    # ---- what they do ----------------------------------------------------------------------------------------

    def _begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._forget()
        has_board = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        if has_board and isinstance(trainer, Trainer) and isinstance(getattr(module, "num_classes", None), int):
            self._hook = module.register_forward_hook(self._take)

    def _take(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Tensor) and isinstance(output, Tensor) and output.ndim == 2:
            self._outputs.append((arguments[0].detach(), output.detach()))

    def _add(self, batch: Any, counts: bool) -> None:
        outputs, self._outputs = self._outputs, []
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
        if not counts or not outputs or not isinstance(labels, Tensor) or labels.ndim != 1:
            return
        # The last ones: what did not fit into memory was done again in smaller pieces.
        taken: list[tuple[Tensor, Tensor]] = []
        while outputs and sum(len(logits) for _, logits in taken) < len(labels):
            taken.insert(0, outputs.pop())
        if sum(len(logits) for _, logits in taken) != len(labels):
            return
        inputs, logits = (torch.cat(parts) for parts in zip(*taken, strict=True))
        if self._seen is None:
            self._seen = Seen.nothing(inputs, logits, self.kept)
        self._seen.add(inputs, logits, labels)

    def _end(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        seen = self._seen
        self._forget()
        if trainer.world_size > 1:
            seen = _of_all_devices(trainer, module, seen, self.kept)
        if seen is None or not trainer.is_global_zero:
            return
        step = trainer.global_step if stage == "test" else trainer.logged_step  # pyright: ignore
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, picture in _pictures(seen):
                    logger.experiment.add_image(f"{GROUP}/{stage}_{name}", picture, step, dataformats="HWC")

    def _forget(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._seen, self._outputs = None, None, []


def _pictures(seen: Seen) -> Iterator[tuple[str, Any]]:
    yield "confusion", confusion_picture(seen.counts.cpu().numpy())
    there = (seen.losses > -torch.inf).cpu()
    if there.any() and seen.inputs.ndim in (3, 4):  # (samples, height, width), or with channels
        parts = (seen.inputs, seen.labels, seen.taken_for, seen.certainty)
        picture = mistakes_picture(*(part.cpu().float().numpy()[there.numpy()] for part in parts))
        if picture is not None:
            yield "mistakes", picture


def _of_all_devices(trainer: L.Trainer, module: L.LightningModule, seen: Seen | None, kept: int) -> Seen | None:
    """What all of them have seen, as if one had. A device whose share was empty throughout has nothing to give."""
    has: Any = module.all_gather(torch.tensor(int(seen is not None), device=module.device))
    if not has.all() or seen is None:
        return seen
    counts: Any = module.all_gather(seen.counts)
    parts: list[Any] = [
        module.all_gather(part) for part in (seen.losses, seen.inputs, seen.labels, seen.taken_for, seen.certainty)
    ]
    joined = Seen.nothing(seen.inputs[:0], seen.counts.float(), kept)
    joined.counts = counts.sum(dim=0)
    joined.keep(*(part.flatten(0, 1) for part in parts))
    return joined
