"""Each layer's gradient, weights and update, and what they say of a fault."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from metronome.insight.instruments.log_points import Instrument, log_scalars, norms, read
from metronome.insight.layers.faults import _POINTS, Faults
from metronome.units import InputError

log = logging.getLogger("metronome.layers")


class LayerWatch(Instrument):
    """Logs `watch_gradient/<parameter>`, `watch_weight/<parameter>` and `watch_update/<parameter>`, at log points: the
    norms of the gradient, of the weights, and of what the update has changed relative to the weights.

    The gradient is the whole batch's, as the update takes it, clipped. All norms are worked out on the device, which is
    waited for once at a log point. Of a network of more than `most` parameters it is the first `most`.

    One line each, once a run, where a layer has had no gradient at five log points in a row, where its gradient
    vanishes (by its weights below `vanishing` times the largest of all layers'), where the whole gradient explodes
    (above `exploding` times its median so far), and where half or more of a layer's units are dead: no gradient in any
    of their weights at five log points in a row.

    Raises:
        InputError: for bounds that are none.
    """

    def __init__(self, vanishing: float = 1e-4, exploding: float = 100.0, most: int = 200) -> None:
        super().__init__()
        if not 0 < vanishing < 1 or not exploding > 1:
            raise InputError(
                f"layer_watch.vanishing={vanishing} must be between 0 and 1, and exploding={exploding} above 1"
            )
        self.most, self.faults = most, Faults(vanishing, exploding)
        self._before: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._dead: dict[str, Tensor] = {}  # by layer, for each unit the points in a row without gradient

    def state_dict(self) -> dict[str, Any]:
        dead = {name: count.tolist() for name, count in self._dead.items()}
        return {"counts": self.faults.counts, "said": self.faults.said, "norms": self.faults.norms, "dead": dead}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        faults = self.faults
        faults.counts, faults.said, faults.norms = (state_dict[name] for name in ("counts", "said", "norms"))
        self._dead = {name: torch.tensor(count) for name, count in state_dict["dead"].items()}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        # The first time in a step: L-BFGS evaluates the batch at weights that it tries.
        if self.is_due and not self._before and isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            self._before = {name: p.detach().clone() for name, p in self._watched(pl_module)}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._before:
            return
        watched, before, self._before = dict(self._watched(pl_module)), self._before, {}
        names = [name for name in before if name in watched and watched[name].grad is not None]
        if not names:
            return
        gradients: list[Any] = [watched[name].grad for name in names]
        weights = [before[name] for name in names]
        updates = torch._foreach_sub([watched[name].detach() for name in names], weights)  # pyright: ignore
        dead = self._count_dead({name: g for name, g in zip(names, gradients, strict=True) if g.ndim > 1})
        found = read([*norms(gradients), *norms(weights), *norms(list(updates)), *dead.values()])
        count = len(names)
        by_name = [dict(zip(names, found[i * count : (i + 1) * count], strict=True)) for i in range(3)]
        units = {name: (int(n), len(self._dead[name])) for name, n in zip(dead, found[3 * count :], strict=True)}
        gradient, weight, update = by_name
        moved = {name: update[name] / weight[name] for name in names if weight[name] > 0}
        groups = {"gradient": gradient, "weight": weight, "update": moved}
        log_scalars(
            trainer, {f"watch_{kind}/{name}": v for kind, values in groups.items() for name, v in values.items()}
        )
        lines = self.faults.at(trainer.logged_step + 1, gradient, weight, units)  # pyright: ignore
        for line in lines if trainer.is_global_zero else ():
            log.warning(line)

    def _watched(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        # A sparse gradient has no norm of a kind.
        trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad and p.numel()]
        return [(n, p) for n, p in trained if p.grad is None or not p.grad.is_sparse][: self.most]

    def _count_dead(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many units (rows of a weight) have had no gradient at five points in a row."""
        found = {}
        for name, gradient in gradients.items():
            none = ~gradient.flatten(1).any(dim=1)
            before = self._dead.get(name)
            counts = none.int() if before is None else (before.to(none.device) + 1) * none
            self._dead[name] = counts
            found[name] = (counts >= _POINTS).sum().to(torch.float64 if none.device.type != "mps" else torch.float32)
        return found
