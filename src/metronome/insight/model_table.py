"""The parts of a network, as a table before the first step."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_summary.model_summary import summarize
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from metronome.training import Trainer
from metronome.training.batches.beside import epoch_beside, generators_of
from metronome.training.batches.seeds import remember_generators
from metronome.training.networks import class_name
from metronome.units import check_number

log = logging.getLogger("metronome")

_WIDTH = 79


class ModelTable(Callback):
    """Says each part's class, parameters and the shape of what it gives for one training batch.

    The counts are Lightning's (`lightning.pytorch.utilities.model_summary`). For the shapes one batch goes forward, in
    evaluation mode; a module that cannot be called as `module(inputs)`, where a batch is `inputs` or (inputs, ...), has
    none. Nothing of it stays.

    Args:
        max_depth: of parts within parts; -1: all.
    """

    def __init__(self, max_depth: int = 2) -> None:
        if max_depth != -1:
            check_number("callbacks.model_summary.max_depth", max_depth, "levels")
        self.max_depth = max_depth

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # On all devices, since reading a batch may take all of them.
        shapes = _shapes(trainer, pl_module) if isinstance(trainer, Trainer) else {}
        if trainer.is_global_zero:
            for line in table(pl_module, self.max_depth, shapes):
                log.info(line)
            log.info("")


def table(module: L.LightningModule, max_depth: int, shapes: dict[str, str]) -> list[str]:
    """The lines, each of 79 columns at most."""
    found = summarize(module, max_depth=max_depth)
    counts = [f"{count:,}" if count else "" for count in found.param_nums]
    rows = [("part", "class", "parameters", "gives" if shapes else ""), *(
        (name, class_name(module.get_submodule(name)), count, shapes.get(name, ""))
        for name, count in zip(found.layer_names, counts, strict=True)
        if not isinstance(module.get_submodule(name), Metric | MetricCollection)
    )]  # fmt: skip
    name, kind, count = (max(len(row[i]) for row in rows) for i in range(3))
    given = max(len(row[3]) for row in rows)
    name = max(8, min(name, _WIDTH - 6 - min(kind, 24) - count - given))
    lines = [
        f"{_short(row[0], name):<{name}}  {_short(row[1], min(kind, 24)):<{min(kind, 24)}}  {row[2]:>{count}}  {row[3]}"
        for row in rows
    ]
    trained, size = found.trainable_parameters, sum(p.numel() * p.element_size() for p in module.parameters())
    frozen = found.total_parameters - trained
    also = f", {frozen:,} more stay as they are" if frozen else ""
    return [*(line.rstrip()[:_WIDTH] for line in lines), f"{trained:,} parameters are trained{also}; {_bytes(size)}"]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _bytes(size: int) -> str:
    name, unit = next(
        (name, unit) for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= unit or unit == 1e3
    )
    return f"{size / unit:,.3g} {name}"


@torch.no_grad()
def _shapes(trainer: Trainer, module: L.LightningModule) -> dict[str, str]:
    """By the names of parts, the shape of what they give; nothing where the module cannot be called."""
    shapes: dict[str, str] = {}

    def noting(name: str) -> Any:
        def note(part: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = " x ".join(map(str, output.shape))

        return note

    put_generators_back = remember_generators(trainer.strategy.root_device)
    own = [(generator, generator.get_state()) for generator in generators_of(trainer.train_dataloader)]
    modes = [(part, part.training) for part in module.modules()]
    hooks = [part.register_forward_hook(noting(name)) for name, part in module.named_modules() if name]
    module.eval()
    try:
        batch = trainer.fit_loop.epoch_loop.step.ways.to_device(next(iter(epoch_beside(trainer, 0))))
        with trainer.precision_plugin.forward_context():
            module(batch[0] if isinstance(batch, list | tuple) else batch)
    except Exception:  # a module may be called in any way, and a look must not end a training
        shapes.clear()
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in modes:
            part.training = mode
        put_generators_back()
        for generator, state in own:
            generator.set_state(state)
    return shapes
