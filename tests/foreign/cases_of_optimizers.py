"""Optimizers, schedulers, and clipping."""

from typing import Any

import torch
from stock import CLASSES, FEATURES, Net, case, copied, loader, network, train
from torch import nn
from torch.optim import lr_scheduler


class With(Net):
    """With an optimizer, and perhaps a scheduler, of its own."""

    def __init__(self, optimizer: Any, **scheduling: Any) -> None:
        super().__init__()
        self.make_optimizer, self.scheduling, self.rates = optimizer, scheduling, []

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if not self.scheduling:
            return optimizer
        schedule = self.scheduling["scheduler"](optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {**self.scheduling, "scheduler": schedule}}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def scheduled(Trainer: Any, flags: dict[str, Any], make: Any, **scheduling: Any) -> Any:
    module = With(sgd, scheduler=make, **scheduling)
    return train(Trainer, module, loader(), flags, max_epochs=3, validation=loader(9)), module.rates


@case("Adam, RMSprop, Adagrad, NAdam, one after the other")
def several(Trainer: Any, **flags: Any) -> Any:
    kinds = torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam
    return [train(Trainer, With(lambda p, kind=kind: kind(p, lr=0.01)), loader(), flags) for kind in kinds]


@case("AdamW with groups of weights, fused")
def groups(Trainer: Any, **flags: Any) -> Any:
    class Groups(Net):
        def configure_optimizers(self) -> Any:
            decays = [p for p in self.parameters() if p.ndim > 1]
            others = [p for p in self.parameters() if p.ndim <= 1]
            parts = [{"params": decays, "weight_decay": 0.1}, {"params": others, "lr": 0.02, "weight_decay": 0.0}]
            return torch.optim.AdamW(parts, lr=0.01, fused=True)

    return train(Trainer, Groups(), loader(), flags)


@case("L-BFGS")
def lbfgs(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, With(lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3)), loader(), flags)


@case("SAM: an optimizer that calls the closure twice")
def sam(Trainer: Any, **flags: Any) -> Any:
    class SAM(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.enable_grad():
                loss = closure()
            weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in weights]).norm()
                moves = [p.grad * 0.05 / norm for p in weights]
                for p, move in zip(weights, moves, strict=True):
                    p.add_(move)
            with torch.enable_grad():
                closure()
            with torch.no_grad():
                for p, move in zip(weights, moves, strict=True):
                    p.sub_(move)
            super().step()
            return loss

    return train(Trainer, With(lambda p: SAM(p, lr=0.1)), loader(), flags)


@case("Lookahead: an optimizer around another")
def lookahead(Trainer: Any, **flags: Any) -> Any:
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, base: torch.optim.Optimizer) -> None:
            super().__init__(base.param_groups, {})
            self.base, self.steps = base, 0
            self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

        def step(self, closure: Any = None) -> Any:
            loss = self.base.step(closure)
            self.steps += 1
            if self.steps % 3 == 0:
                with torch.no_grad():
                    for group, slow in zip(self.param_groups, self.slow, strict=True):
                        for p, kept in zip(group["params"], slow, strict=True):
                            p.copy_(kept.lerp_(p, 0.5))
            return loss

    return train(Trainer, With(lambda p: Lookahead(torch.optim.Adam(p, lr=0.01))), loader(), flags)


@case("no optimizer at all")
def no_optimizer(Trainer: Any, **flags: Any) -> Any:
    class Without(Net):
        def configure_optimizers(self) -> Any:
            return None

    return train(Trainer, Without(), loader(), flags)


@case("two optimizers with automatic optimization")
def two_optimizers(Trainer: Any, **flags: Any) -> Any:
    class Two(Net):
        def configure_optimizers(self) -> Any:
            return [sgd(self.net[0].parameters()), sgd(self.net[2].parameters())]

    return train(Trainer, Two(), loader(), flags)


@case("StepLR by steps")
def step_lr(Trainer: Any, **flags: Any) -> Any:
    return scheduled(Trainer, flags, lambda o: lr_scheduler.StepLR(o, 3, 0.5), interval="step")


@case("a cosine by epochs, every second step of a warm-up")
def frequency(Trainer: Any, **flags: Any) -> Any:
    by_epochs = scheduled(Trainer, flags, lambda o: lr_scheduler.CosineAnnealingLR(o, 3), interval="epoch")
    return by_epochs, scheduled(Trainer, flags, lambda o: lr_scheduler.LinearLR(o), interval="step", frequency=2)


@case("OneCycleLR over trainer.estimated_stepping_batches")
def one_cycle(Trainer: Any, **flags: Any) -> Any:
    class OneCycle(With):
        def configure_optimizers(self) -> Any:
            optimizer = sgd(self.parameters())
            total = int(self.trainer.estimated_stepping_batches)
            schedule = lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=total)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    module = OneCycle(sgd)
    return train(Trainer, module, loader(), flags, max_epochs=3), module.rates


@case("ReduceLROnPlateau by the validation, and by the training's loss in each step")
def plateau(Trainer: Any, **flags: Any) -> Any:
    def make(optimizer: Any) -> Any:
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.1)

    by_epoch = scheduled(Trainer, flags, make, monitor="val/loss")
    return by_epoch, scheduled(Trainer, flags, make, monitor="loss_step", interval="step", strict=False)


@case("a scheduler of one's own, by lr_scheduler_step")
def own_scheduler(Trainer: Any, **flags: Any) -> Any:
    class Steps(With):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(epoch=2 * self.trainer.global_step)

    module = Steps(sgd, scheduler=lambda o: lr_scheduler.StepLR(o, 3, 0.5), interval="step")
    return train(Trainer, module, loader(), flags), module.rates


@case("a warm-up of the rate in optimizer_step")
def warms_up(Trainer: Any, **flags: Any) -> Any:
    class WarmsUp(With):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)
            if self.trainer.global_step < 5:
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 * (self.trainer.global_step + 1) / 5

    module = WarmsUp(sgd)
    return train(Trainer, module, loader(), flags), module.rates


@case("optimizer_step updates in every second batch only")
def every_second(Trainer: Any, **flags: Any) -> Any:
    class Second(With):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2 == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    return train(Trainer, Second(sgd), loader(), flags)


@case("optimizer_zero_grad that sets zeros")
def zeros(Trainer: Any, **flags: Any) -> Any:
    class Zeros(With):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    return train(Trainer, Zeros(sgd), loader(), flags)


@case("clipping by norm and by value")
def clipped(Trainer: Any, **flags: Any) -> Any:
    by_norm = train(Trainer, Net(), loader(), flags, gradient_clip_val=0.1)
    return by_norm, train(Trainer, Net(), loader(), flags, gradient_clip_val=0.02, gradient_clip_algorithm="value")


@case("configure_gradient_clipping of one's own")
def own_clipping(Trainer: Any, **flags: Any) -> Any:
    class Clips(Net):
        def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
            self.clip_gradients(optimizer, 0.5 / (1 + self.trainer.global_step), "norm")
            self.log("norm", nn.utils.get_total_norm(p.grad for p in self.parameters() if p.grad is not None))

    return train(Trainer, Clips(), loader(), flags)


# ---- manual optimization ------------------------------------------------------------------------------------


class Adversaries(Net):
    """A generator and a discriminator, each with its optimizer, by Lightning's guide."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = network(nn.Linear(2, FEATURES)), network(nn.Linear(FEATURES, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        first, second = optimizers
        noise, entropy = batch[0][:, :2], nn.functional.binary_cross_entropy_with_logits
        ones, zeros = torch.ones(len(noise), 1), torch.zeros(len(noise), 1)
        self.toggle_optimizer(first)
        loss = entropy(self.critic(self.generator(noise)), ones)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        self.untoggle_optimizer(first)
        made = self.generator(noise).detach()
        loss = (entropy(self.critic(batch[0]), ones) + entropy(self.critic(made), zeros)) / 2
        second.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(second, 0.5)
        second.step()
        self.log("critic", loss, prog_bar=True)
        for schedule in self.lr_schedulers():  # pyright: ignore
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizers = [sgd(self.generator.parameters()), sgd(self.critic.parameters())]
        return optimizers, [lr_scheduler.StepLR(optimizer, 3, 0.5) for optimizer in optimizers]


@case("manual: a generator and its critic", quick=True)
def adversaries(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Adversaries(), loader(), flags)


@case("manual: gradients of two batches joined")
def joins_batches(Trainer: Any, **flags: Any) -> Any:
    class Joins(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx) / 2)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()

    return train(Trainer, Joins(), loader(), flags)


@case("manual: a closure, and another optimizer every second batch")
def closures(Trainer: Any, **flags: Any) -> Any:
    class Closures(Net):
        def __init__(self) -> None:
            super().__init__(network(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()[batch_idx % 2]  # pyright: ignore

            def closure() -> Any:
                loss = self.loss(self.net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

        def configure_optimizers(self) -> Any:
            first = torch.optim.LBFGS(self.net[0].parameters(), lr=0.5, max_iter=2)
            return [first, torch.optim.Adam(self.net[2].parameters(), lr=0.01)]

    module = Closures()
    return train(Trainer, module, loader(), flags), copied(list(module.parameters()))
