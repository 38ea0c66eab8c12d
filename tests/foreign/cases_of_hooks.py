"""Hooks of modules and callbacks that change weights, gradients or batches, or end things early."""

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from stock import QUIET as QUIET
from stock import Net, case, left, loader, train
from torch import Tensor


class Teacher(Net):
    """Learns from a running mean of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        return self.loss(outputs, batch[1]) + (outputs - self.teacher(batch[0])).square().mean()

    def move(self) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


@case("a mean teacher in on_before_zero_grad")
def teacher_before_zero_grad(Trainer: Any, **flags: Any) -> Any:
    class Moves(Teacher):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            self.move()

    return train(Trainer, Moves(), loader(), flags)


@case("a mean teacher in on_train_batch_end")
def teacher_after_the_batch(Trainer: Any, **flags: Any) -> Any:
    class Moves(Teacher):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.move()

    return train(Trainer, Moves(), loader(), flags)


@case(
    "a mean teacher in training_step",
    not_exact="weights changed in `training_step` (clipped, a teacher averaged)",
)
def teacher_in_the_step(Trainer: Any, **flags: Any) -> Any:
    class Moves(Teacher):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.move()
            return super().training_step(batch, batch_idx)

    return train(Trainer, Moves(), loader(), flags)


@case("gradients clipped in on_after_backward", not_exact="gradients changed in `on_after_backward`")
def clips_after_backward(Trainer: Any, **flags: Any) -> Any:
    class Clips(Net):
        def on_after_backward(self) -> None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.1)

    return train(Trainer, Clips(), loader(), flags)


@case("gradients changed and logged in on_before_optimizer_step", quick=True)
def before_the_step(Trainer: Any, **flags: Any) -> Any:
    class Changes(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for parameter in pl_module.parameters():
                parameter.grad.clamp_(-0.05, 0.05)
            pl_module.log("largest", max(p.grad.abs().max() for p in pl_module.parameters()))

    return train(Trainer, Net(), loader(), flags, callbacks=Changes())


@case("backward overridden, twice through one graph")
def own_backward(Trainer: Any, **flags: Any) -> Any:
    class Twice(Net):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            loss.backward(retain_graph=True)
            (0.5 * loss).backward()

    return train(Trainer, Twice(), loader(), flags)


@case("a callback that changes the batch in place in on_train_batch_start")
def changes_the_batch(Trainer: Any, **flags: Any) -> Any:
    class Changes(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch[0].mul_(0.5)

    data = loader(generator=torch.Generator().manual_seed(2), shuffle=True)
    return train(Trainer, Net(), data, flags, callbacks=[Changes()])


@case("training_step changes its batch in place")
def changes_in_the_step(Trainer: Any, **flags: Any) -> Any:
    class Changes(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].mul_(0.5)
            return super().training_step(batch, batch_idx)

    return train(Trainer, Changes(), loader(), flags)


@case("on_train_batch_start returns -1")
def ends_the_epoch(Trainer: Any, **flags: Any) -> Any:
    class Ends(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 2 else None

    return train(Trainer, Ends(), loader(), flags)


@case("trainer.should_stop set in a hook, with min_epochs")
def should_stop(Trainer: Any, **flags: Any) -> Any:
    class Stops(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = self.trainer.global_step >= 3

    alone = train(Trainer, Stops(), loader(), flags, max_epochs=5)
    return alone, train(Trainer, Stops(), loader(), flags, max_epochs=5, min_epochs=2)


@case("an exception in a step, seen by on_exception; the values of the step before are there")
def raises(Trainer: Any, **flags: Any) -> Any:
    class Raises(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.global_step == 3:
                raise ZeroDivisionError("three")
            return super().training_step(batch, batch_idx)

        def on_exception(self, exception: BaseException) -> None:
            seen.append(str(exception))

    seen: list[str] = []
    trainer, module = Trainer(**QUIET | flags), Raises()
    try:
        trainer.fit(module, loader())
    except ZeroDivisionError as error:
        seen.append(str(error))
    return seen, left(trainer, module)


@case("KeyboardInterrupt in a step")
def interrupted(Trainer: Any, **flags: Any) -> Any:
    class Interrupts(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.trainer.global_step == 3:
                raise KeyboardInterrupt

    trainer, module = Trainer(**QUIET | flags), Interrupts()
    try:
        trainer.fit(module, loader())
        ended = "returned"
    except BaseException as error:
        ended = type(error).__name__
    return ended, left(trainer, module)


@case("layers added to the optimizer in on_train_epoch_start")
def adds_a_group(Trainer: Any, **flags: Any) -> Any:
    class Adds(Net):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                optimizer: Any = self.optimizers()
                optimizer.add_param_group({"params": list(self.net[2].parameters()), "lr": 0.01})

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    return train(Trainer, Adds(), loader(), flags, max_epochs=3)


@case("weights pruned to a mask after each step")
def masks(Trainer: Any, **flags: Any) -> Any:
    class Masks(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            with torch.no_grad():
                pl_module.net[0].weight[::2] = 0

    return train(Trainer, Net(), loader(), flags, callbacks=[Masks()])


@case("EMA by torch's AveragedModel in a callback")
def averaged_model(Trainer: Any, **flags: Any) -> Any:
    class Averages(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.average = torch.optim.swa_utils.AveragedModel(pl_module.net)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.average.update_parameters(pl_module.net)

    averages = Averages()
    found = train(Trainer, Net(), loader(), flags, callbacks=[averages])
    return found, averages.average.state_dict()


@case("the hooks of a callback, as they are called, but for those around each backward pass")
def called(Trainer: Any, **flags: Any) -> Any:
    calls: list[str] = []

    class Notes(Callback):
        pass

    def noting(name: str) -> Any:
        return lambda self, *arguments, **keywords: calls.append(name)

    for name in dir(Callback):
        if name.startswith("on_") and name not in (
            "on_before_backward",
            "on_after_backward",
            "on_save_checkpoint",
            "on_load_checkpoint",
        ):
            setattr(Notes, name, noting(name))
    train(Trainer, Net(), loader(), flags, callbacks=[Notes()], validation=loader(9), num_sanity_val_steps=1)
    return calls
