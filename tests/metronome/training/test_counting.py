"""Everything that Lightning counts, it counts in steps, whatever the accumulation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from metronome.training import Trainer
from metronome.units import InputError

ACCUMULATIONS = pytest.mark.parametrize("accumulation", [1, 3])


class Steps(Callback):
    """Notes the global step of every validation and the rate of every step."""

    def __init__(self) -> None:
        self.validations: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validations.append(trainer.global_step)


# 157 samples / 16 = 10 steps an epoch, the last with 13 samples


@ACCUMULATIONS
@pytest.mark.parametrize(
    ("flags", "validations"),
    [
        ({"val_check_interval": 4}, [4, 8, 14, 18]),  # in each epoch after its 4th and 8th step
        ({"val_check_interval": 0.5}, [5, 10, 15, 20]),
        ({"val_check_interval": 7, "check_val_every_n_epoch": None}, [7, 14]),
        ({"check_val_every_n_epoch": 2}, [20]),
        ({"limit_train_batches": 6}, [6, 12]),
        ({"limit_train_batches": 0.3}, [3, 6]),
        ({"max_epochs": -1, "max_steps": 13}, [10, 13]),  # a run ends with a validation, in mid-epoch too
        ({"max_epochs": None, "budget": "0.5 epochs"}, [5]),
        ({"max_epochs": None, "budget": "13 steps"}, [10, 13]),
        ({"max_epochs": None, "budget": "200 samples"}, [10, 13]),  # 157 + 3 x 16 = 205
        ({"max_epochs": None, "budget": "2 epochs"}, [10, 20]),
    ],
)
def test_validation_interval(accumulation: int, flags: dict[str, Any], validations: list[int]) -> None:
    steps = Steps()
    _, run = fit(
        data=Data(batch_size=16),
        accumulate_grad_batches=accumulation,
        callbacks=[steps],
        **{"max_epochs": 2, **flags},
    )
    assert steps.validations == validations
    assert run.global_step == validations[-1] or "val_check_interval" in flags
    assert run.estimated_stepping_batches == run.global_step
    assert run.counters.iterations == run.plan.total_iterations
    assert run.counters.samples == run.plan.total_samples
    assert run.counters.epochs == run.plan.epochs


@ACCUMULATIONS
def test_logging_interval(accumulation: int, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    fit(
        data=Data(batch_size=16),
        accumulate_grad_batches=accumulation,
        max_epochs=2,
        logger=logger,
        log_every_n_steps=3,
    )
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column, step = rows[0].split(",").index("loss_step"), rows[0].split(",").index("step")
    logged = [int(row.split(",")[step]) for row in rows[1:] if row.split(",")[column]]
    assert logged == [2, 5, 8, 11, 14, 17]  # steps are numbered from 0 there


@ACCUMULATIONS
def test_checkpoint_interval(accumulation: int, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    fit(
        data=Data(batch_size=16),
        accumulate_grad_batches=accumulation,
        max_epochs=2,
        callbacks=[checkpoint],
        enable_checkpointing=True,
    )
    found = {int(path.stem.split("=")[1]) for path in tmp_path.glob("*.ckpt")}
    assert found == {4, 8, 12, 16, 20}


@ACCUMULATIONS
def test_schedules_go_by_steps(accumulation: int) -> None:
    """LinearLR from 0.1 down to a tenth of it in 20 steps, worked by hand."""
    steps = Steps()
    fit(data=Data(batch_size=16), accumulate_grad_batches=accumulation, max_epochs=2, callbacks=[steps])
    assert steps.rates == pytest.approx([0.1 * (1 - 0.9 * step / 20) for step in range(20)])


@ACCUMULATIONS
def test_estimated_stepping_batches_is_there_for_configure_optimizers(accumulation: int) -> None:
    class OneCycle(Net):
        def configure_optimizers(self) -> Any:
            self.estimated = self.trainer.estimated_stepping_batches
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(self.estimated))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    model = OneCycle()
    data = Data(batch_size=8, batch_growth={"factor": 3})
    _, run = fit(model=model, data=data, accumulate_grad_batches=accumulation, max_epochs=3)
    assert model.estimated == run.global_step == 20 + 7 + 3  # 157 / 8, / 24, / 72


def test_time_is_a_budget() -> None:
    run = trainer(budget="90 s")
    assert run.max_epochs == -1
    assert run.max_steps == -1
    assert run.plan_for(100, Data(batch_size=10).schedule).total_steps is None
    fit(budget="1 s", max_epochs=None)  # ends


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0"),
        ({"accumulate_grad_batches": -1}, "accumulate_grad_batches=-1"),
        ({"accumulate_grad_batches": 1.5}, "accumulate_grad_batches=1.5"),
        ({"accumulate_grad_batches": True}, "accumulate_grad_batches=True"),
        ({"budget": "5 epochs", "max_epochs": 3}, "two budgets"),
        ({"budget": "5 epochs", "max_steps": 3}, "two budgets"),
        ({"budget": "10%"}, "budget=10%"),
        ({"budget": "many"}, "not a duration"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"seed": "0"}, "seed='0'"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "GradientAccumulationScheduler"),
    ],
)
def test_flags_that_cannot_mean_the_right_thing_are_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        Trainer(accelerator="cpu", logger=False, **flags)
    assert "\n" not in str(raised.value)


def test_a_module_may_not_bring_an_accumulation_scheduler() -> None:
    class Brings(Net):
        def configure_callbacks(self) -> Any:
            return GradientAccumulationScheduler({0: 2})

    with pytest.raises(InputError, match="GradientAccumulationScheduler"):
        fit(model=Brings())


def test_more_micro_batches_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match="use at most 32"):
        _ = fit(accumulate_grad_batches=33)[1].plan
