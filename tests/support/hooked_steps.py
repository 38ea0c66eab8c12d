"""Modules that make a step in ways of their own."""

from typing import Any

import torch
from hooked import Everything, Module
from torch import nn


class Nothing(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss


class Extras(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return {"loss": loss, "input": batch[0] * 2, "number": batch_idx, "text": "a"}


class Ends(Module):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 2 - 2 * self.current_epoch else None


class OneArgument(Module):
    def training_step(self, batch: Any) -> Any:  # pyright: ignore
        return super().training_step(batch, 0)


class AnyArguments(Module):
    def training_step(self, *arguments: Any, **options: Any) -> Any:
        assert len(arguments) == 2
        assert not options
        return super().training_step(*arguments)


class OtherNames(Module):
    def training_step(self, x: Any, i: int) -> Any:  # pyright: ignore
        return super().training_step(x, i)


class OwnStep(Module):
    """Logs from it too, as from the others below."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:  # pyright: ignore
        self.log("from here", 1.0)
        optimizer.step(closure=closure)


class CallsClosure(Module):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:  # pyright: ignore
        self.log("from here", closure().detach())
        if batch_idx % 2:
            optimizer.step()


class OwnBackward(Module):
    def backward(self, loss: Any, *arguments: Any, **options: Any) -> None:
        assert not arguments
        self.log("from here", loss.detach())
        loss.backward(retain_graph=True)


class LogsInBackward(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        loss.register_hook(lambda gradient: self.log("from here", gradient))
        return loss


class OwnZero(Module):
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.log("from here", 1.0)
        optimizer.zero_grad(set_to_none=False)


class OwnClipping(Module):
    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        self.log("from here", 1.0)
        self.clip_gradients(optimizer, gradient_clip_val=0.3, gradient_clip_algorithm="value")


class OwnSchedulers(Module):
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step()
        scheduler.step()


class Frequencies(Module):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, rate) for rate in (0.9, 0.8, 0.7)]
        by_step, by_epochs, by_epoch = schedulers
        every = [("step", 3, by_step), ("epoch", 2, by_epochs), ("epoch", 1, by_epoch)]
        return [optimizer], [{"scheduler": s, "interval": unit, "frequency": n} for unit, n, s in every]


class Plateau(Module):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        by_step = {"scheduler": scheduler, "interval": "step", "frequency": 2, "monitor": "loss"}
        return {"optimizer": optimizer, "lr_scheduler": by_step}


class OtherSignature(torch.optim.SGD):
    def step(self, flag: bool = False, closure: Any = None) -> Any:  # pyright: ignore
        assert flag is False
        return super().step(closure)


class OwnOptimizer(Module):
    """Its closure comes by name, and its hooks may log."""

    def configure_optimizers(self) -> Any:
        optimizer = OtherSignature(self.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *_: self.log("from here", 1.0))
        return optimizer


class Partly(Module):
    """Some parameters are not trained, others not used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.net[0].requires_grad_(False)  # pyright: ignore


class NoOptimizer(Module):
    def configure_optimizers(self) -> Any:
        return None


class Bfgs(Module):
    """It asks for the loss several times a step."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3, line_search_fn="strong_wolfe")


class Manual(Module):
    """Two optimizers in turn."""

    automatic_optimization = False  # pyright: ignore

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        for optimizer, net in zip(optimizers, (self.net, self.other), strict=True):
            with self.toggled_optimizer(optimizer):
                loss = nn.functional.mse_loss(net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, 0.5, "norm")
                optimizer.step()
            self.log(f"loss of {type(net).__name__}", loss)
        for scheduler in schedulers:
            scheduler.step()
        return {"loss": loss, "more": 1}  # pyright: ignore

    def configure_optimizers(self) -> Any:
        optimizers = [torch.optim.SGD(self.net.parameters(), lr=0.1), torch.optim.Adam(self.other.parameters())]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 3) for optimizer in optimizers]


class ManualClosures(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer, net in zip(optimizers, (self.net, self.other), strict=True):

            def closure(optimizer: Any = optimizer, net: Any = net) -> Any:
                loss = nn.functional.mse_loss(net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            with optimizer.toggle_model():
                optimizer.step(closure=closure)


KINDS = [
    Nothing, Extras, Ends, OneArgument, AnyArguments, OtherNames, OwnStep, CallsClosure, OwnBackward, LogsInBackward,
    OwnZero, OwnClipping, OwnSchedulers, Frequencies, Plateau, OwnOptimizer, Partly, NoOptimizer, Bfgs, Manual,
    ManualClosures,
]  # fmt: skip


class NeverCalls(Module):
    def optimizer_step(self, *_: Any, **__: Any) -> None: ...


class Deaf(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return super().step()


class HasDeaf(Module):
    def configure_optimizers(self) -> Any:
        return Deaf(self.parameters(), lr=0.1)


class WithoutBatchNorm(Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


class Logs(Everything):
    """Values of all kinds, from every hook that may log."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("of the step", loss * 2)
        self.log("of the epoch", loss * 3, on_step=False, on_epoch=True)
        self.log("sum", loss, reduce_fx="sum", on_epoch=True)
        self.log("largest", loss, reduce_fx="max", on_epoch=True)
        self.log("not for loggers", loss, logger=False, on_epoch=True)
        self.log("of 7 samples", loss, batch_size=7, on_epoch=True)
        self.log_dict({"a": loss, "b": 1.0}, on_epoch=True)
        if batch_idx == 2:
            self.log("sometimes", loss, on_epoch=True)
        return loss

    def on_train_start(self) -> None:
        self.log("train start", 2.0)

    def on_train_epoch_start(self) -> None:
        self.log("epoch start", 2.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("batch start", float(batch_idx), on_epoch=True)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.log("before zero", 1.0, on_epoch=True)

    def on_after_backward(self) -> None:
        self.log("after backward", 1.0)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("batch end", outputs["loss"], on_epoch=True)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/step", float(batch_idx), on_step=True, on_epoch=True)

    def on_validation_start(self) -> None:
        self.log("val/start", 3.0)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/end of batch", float(batch_idx))

    def on_validation_epoch_end(self) -> None:
        self.log("val/end", 3.0)


class ManualLogs(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("number", float(batch_idx), on_epoch=True)
        return super().training_step(batch, batch_idx)
