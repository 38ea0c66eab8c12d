"""Lightning's flags, and its precisions."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from stock import LABELS, Net, X, case, copied, left, loader, network, train
from torch.utils.data import DataLoader, TensorDataset


class Notes(Net):
    """Notes after how many steps it is validated, and on what."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not self.trainer.sanity_checking:
            self.seen.append(("train", batch_idx, self.trainer.global_step))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.seen.append(("val", batch_idx, self.trainer.global_step, copied(batch[0][0])))
        return super().validation_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.seen.append(("end", self.current_epoch))


def flagged(Trainer: Any, flags: dict[str, Any], **own: Any) -> Any:
    module = Notes()
    return train(Trainer, module, loader(), flags, validation=loader(9), **{"max_epochs": 3, **own}), _once(module.seen)


def _once(seen: list[Any]) -> list[Any]:
    """Without the repetitions of a step that is cut."""
    return [item for i, item in enumerate(seen) if i == 0 or item[0] != "train" or item != seen[i - 1]]


@case("limit_train_batches, limit_val_batches: numbers and parts", quick=True)
def limits(Trainer: Any, **flags: Any) -> Any:
    numbers = flagged(Trainer, flags, limit_train_batches=3, limit_val_batches=1)
    return numbers, flagged(Trainer, flags, limit_train_batches=0.5, limit_val_batches=0.7)


@case("limit_val_batches=0, limit_train_batches=0")
def limits_of_none(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, limit_val_batches=0), flagged(Trainer, flags, limit_train_batches=0)


@case("overfit_batches: a number, a part")
def overfit(Trainer: Any, **flags: Any) -> Any:
    module = Notes()
    number = train(Trainer, module, loader(shuffle=True), flags, overfit_batches=1, max_epochs=3)
    return number, flagged(Trainer, flags, overfit_batches=0.5)


@case("fast_dev_run: true, a number")
def fast_dev_run(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, fast_dev_run=True), flagged(Trainer, flags, fast_dev_run=3)


@case("val_check_interval: a number, a part, over epochs, check_val_every_n_epoch")
def val_check_interval(Trainer: Any, **flags: Any) -> Any:
    within = [flagged(Trainer, flags, val_check_interval=every) for every in (2, 0.5, 1.0)]
    over = flagged(Trainer, flags, val_check_interval=5, check_val_every_n_epoch=None)
    return within, over, flagged(Trainer, flags, check_val_every_n_epoch=2)


@case("val_check_interval: a time")
def val_check_time(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, val_check_interval="00:01:00:00"), flagged(
        Trainer, flags, val_check_interval={"seconds": 0}
    )


@case("num_sanity_val_steps")
def sanity(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, num_sanity_val_steps=1), flagged(Trainer, flags, num_sanity_val_steps=-1)


@case("max_steps, min_steps, in mid-epoch")
def max_steps(Trainer: Any, **flags: Any) -> Any:
    own = {"limit_val_batches": 0}
    return flagged(Trainer, flags, max_steps=6, max_epochs=-1, **own), flagged(Trainer, flags, min_steps=9, **own)


@case("max_steps in mid-epoch, where a validation is due at the end of the epoch")
def max_steps_and_validation(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, max_steps=6, max_epochs=-1)


@case("max_time: plenty, none")
def max_time(Trainer: Any, **flags: Any) -> Any:
    return flagged(Trainer, flags, max_time="00:01:00:00"), flagged(Trainer, flags, max_time={"seconds": 0})


@case("detect_anomaly, deterministic, benchmark")
def deterministic(Trainer: Any, **flags: Any) -> Any:
    found = flagged(Trainer, flags, detect_anomaly=True, deterministic=True, benchmark=False)
    torch.use_deterministic_algorithms(False)
    return found


@case("barebones")
def barebones(Trainer: Any, **flags: Any) -> Any:
    class Bare(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0]), batch[1])

    trainer, module = Trainer(accelerator="cpu", devices=1, max_epochs=2, barebones=True, **flags), Bare()
    trainer.fit(module, loader())
    return left(trainer, module)


@case("a profiler")
def profiler(Trainer: Any, **flags: Any) -> Any:
    profiles = SimpleProfiler()
    found = train(Trainer, Net(), loader(), flags, profiler=profiles, validation=loader(9))
    counts = {name: len(durations) for name, durations in profiles.recorded_durations.items()}
    return found, [
        counts.get(name)
        for name in ("run_training_batch", "run_training_epoch", "[Strategy]SingleDeviceStrategy.validation_step")
    ]


@case("seed_everything(3, workers=True) before a shuffled training")
def seeded(Trainer: Any, **flags: Any) -> Any:
    L.seed_everything(3, workers=True, verbose=False)
    return train(Trainer, Net(), loader(shuffle=True), flags)


@case(
    "accumulate_grad_batches=3, whose last window is short",
    cut=False,
    why="the last window weighs too little",
    right=(lambda Trainer, **flags: train(Trainer, Net(), loader(9), flags)["weights"]),
)
def short_last_window(Trainer: Any, **flags: Any) -> Any:
    """9 samples a step, in the words of each: batches of 3 joined by three, or a batch of 9 cut in three."""
    size = 3 if Trainer is L.Trainer else 9
    return train(Trainer, Net(), loader(size), flags, accumulate_grad_batches=3)["weights"]


# ---- precision ----------------------------------------------------------------------------------------------

_ROWS = TensorDataset(X.float(), LABELS)


def precise(Trainer: Any, flags: dict[str, Any], precision: str) -> Any:
    module = Net(network().float())
    found = train(Trainer, module, DataLoader(_ROWS, batch_size=6), flags, precision=precision)
    return found, [str(parameter.dtype) for parameter in module.parameters()]


@case("precision 64-true of a module in float32")
def double(Trainer: Any, **flags: Any) -> Any:
    return precise(Trainer, flags, "64-true")


LOW = "low precision (`16-mixed`, `bf16-mixed`, TF32)"


@case("precision bf16-mixed", not_exact=LOW)
def bf16_mixed(Trainer: Any, **flags: Any) -> Any:
    return precise(Trainer, flags, "bf16-mixed")


@case("precision 16-mixed", not_exact=LOW)
def half_mixed(Trainer: Any, **flags: Any) -> Any:
    return precise(Trainer, flags, "16-mixed")


@case("precision bf16-true", not_exact=LOW)
def bf16_true(Trainer: Any, **flags: Any) -> Any:
    return precise(Trainer, flags, "bf16-true")
