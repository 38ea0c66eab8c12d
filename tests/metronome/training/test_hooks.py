"""Hooks are called as by Lightning's own Trainer: when, with what, how the training stands, and what comes of it."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hooked import (
    Data,
    Everything,
    First,
    Kind,
    Log,
    Module,
    Second,
    X,
    Y,
    assert_same,
    fit,
    folder,
    fully_recorded,
    left,
    outcome,
    same,
    trainer,
)
from hooked_data import (
    Moves,
    MovesBefore,
    OnObjects,
    OnOne,
    OnTwo,
    Shares,
    Stream,
    TwoForValidation,
    objects,
    rows,
    two,
)
from hooked_steps import (
    KINDS,
    Ends,
    Extras,
    HasDeaf,
    Logs,
    Manual,
    ManualClosures,
    ManualLogs,
    NeverCalls,
    OwnClipping,
    WithoutBatchNorm,
)
from lightning.pytorch import callbacks as builtin
from lightning.pytorch.callbacks import Callback, EarlyStopping, LambdaCallback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.tuner.tuning import Tuner
from recorder import Journal, Values, digest, hooks_of
from torch.utils.data import DataLoader, TensorDataset

from metronome.training import Trainer

# ---- everything overridden ---------------------------------------------------------------------------------

STRATEGIES = pytest.mark.parametrize("strategy", [False, True], ids=["plain strategy", "own strategy"])


def saves_as_ours(journal: list[Any]) -> list[Any]:
    """Lightning's processes meet after a save; ours tell each other whether it could be written (the disk is full)."""
    told = {"barrier": "broadcast", "barrier returned": "broadcast returned"}
    saves, changed = False, []
    for place, call, *rest in journal:
        owner, _, hook = call.rpartition(".")
        saves = saves or call == "SingleDeviceStrategy.save_checkpoint"
        if saves and hook in told:
            rest = [["tuple", None], *rest[1:]] if hook == "barrier" else rest
            call, saves = f"{owner}.{told[hook]}", saves and hook == "barrier"
        changed.append((place, call, *rest))
    return changed


@STRATEGIES
def test_fit(strategy: bool, tmp_path: Path) -> None:
    """With a sanity check, validation in mid-epoch and at its end, clipping, checkpoints, schedulers of two kinds."""

    def run(kind: Kind, journal: Journal) -> Any:
        saves = ModelCheckpoint(folder(tmp_path, kind), "{epoch}-{step}", save_top_k=-1)
        run, module, data = fully_recorded(kind, journal, strategy, callbacks=[saves], num_sanity_val_steps=1)
        run.fit(module, datamodule=data)
        return left(run, module), sorted(path.name for path in folder(tmp_path, kind).iterdir())

    _, (_, files) = same(run, saves_as_ours)
    assert len(files) == 4


@STRATEGIES
def test_validate_test_and_predict(strategy: bool) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        run, module, data = fully_recorded(kind, journal, strategy)
        found = [run.validate(module, datamodule=data, verbose=False), run.test(module, datamodule=data, verbose=False)]
        return found, [part.tolist() for part in run.predict(module, datamodule=data)], left(run, module)

    same(run)


@STRATEGIES
@pytest.mark.parametrize("epochs", [1, 3], ids=["as long as before", "longer"])
def test_resume_at_the_end_of_an_epoch(epochs: int, strategy: bool, tmp_path: Path) -> None:
    """From a checkpoint written in `on_train_epoch_end`. Lightning leaves out what was still to be done there: the line
    of the epoch in the logs; and of a training that has come to its end there, the hooks that say so."""

    def run(kind: Kind, journal: Journal) -> Any:
        saves = ModelCheckpoint(folder(tmp_path, kind), "last", save_on_train_epoch_end=True)
        before, module, data = fully_recorded(kind, Journal(), strategy, callbacks=[saves], max_epochs=1)
        before.fit(module, datamodule=data)
        run, module, data = fully_recorded(kind, journal, strategy, max_epochs=epochs)
        run.fit(module, datamodule=data, ckpt_path=folder(tmp_path, kind) / "last.ckpt", weights_only=False)
        return run.global_step, {name: digest(w) for name, w in module.state_dict().items()}

    (stock, there), (ours, here) = outcome(run, L.Trainer), outcome(run, Trainer)
    more, begins = len(ours) - len(stock), [a == b for a, b in zip(stock, ours, strict=False)].index(False)
    made_up = [call for _, call, *_ in ours[begins : begins + more] if not call.endswith("returned")]
    assert made_up[:2] == ["Log.log_metrics", "Log.save"]
    assert ours[begins][3]["metrics"].keys() == {"loss_epoch", "seen", "epoch value", "epoch"}
    rest = [call for call in made_up[2:] if "_dataloader" not in call and ".on_train_" not in call]
    assert set(rest) <= {"SingleDeviceStrategy.barrier", "SingleDeviceStrategy.reduce"}
    assert bool(made_up[2:]) is (epochs == 1)
    del ours[begins : begins + more]
    if epochs == 1:  # the epoch is counted as completed
        stock, ours = ([entry[:3] for entry in journal] for journal in (stock, ours))
    assert_same(stock, ours)
    assert here == there


def test_each_hook_is_called(tmp_path: Path) -> None:
    """Else the tests above prove nothing about it. What is left are helpers, which a user calls."""
    journal = Journal()
    saves = ModelCheckpoint(tmp_path, "last")
    run, module, data = fully_recorded(Trainer, journal, True, callbacks=[saves], num_sanity_val_steps=1)
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    run.predict(module, datamodule=data)
    run, module, data = fully_recorded(Trainer, journal, True, max_epochs=3)
    run.fit(module, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    run, module, data = fully_recorded(Trainer, journal, True, callbacks=[Raises()])
    with pytest.raises(ValueError, match="in mid-epoch"):
        run.fit(module, datamodule=data)
    called = {call.split(" ")[0] for _, call, *_ in journal}
    helpers = {
        Everything: {"all_gather", "cuda", "double", "float", "freeze", "half", "log_dict", "lr_schedulers",
                     "manual_backward", "optimizers", "print", "toggle_optimizer", "toggled_optimizer", "type",
                     "unfreeze", "untoggle_optimizer"},
        Data: {"load_state_dict"},
        First: {"load_state_dict"},
        SingleDeviceStrategy: {"all_gather", "model_sharded_context", "reduce_boolean_decision", "remove_checkpoint",
                               "tensor_init_context"},
    }  # fmt: skip
    # Of data hooks the data module's are called, not the module's.
    helpers[Everything] |= set(hooks_of(L.LightningDataModule)) - {"setup", "teardown"}
    for kind, base in ((Everything, L.LightningModule), (Data, L.LightningDataModule), (First, Callback),
                       (SingleDeviceStrategy, SingleDeviceStrategy)):  # fmt: skip
        missing = {hook for hook in hooks_of(base) if f"{kind.__name__}.{hook}" not in called}
        assert missing <= helpers[kind], kind.__name__


class Raises(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            raise ValueError("in mid-epoch")


# ---- one thing overridden ----------------------------------------------------------------------------------

# Those of a step and around it; a hook that nobody else has must be found too.
OF_A_STEP = [
    *("on_train_epoch_start", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
    *("on_train_batch_start", "training_step", "on_before_zero_grad", "optimizer_zero_grad", "on_before_backward"),
    *("backward", "on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping", "clip_gradients"),
    *("optimizer_step", "lr_scheduler_step", "on_train_batch_end", "on_validation_model_zero_grad", "log"),
    *("on_validation_model_eval", "on_validation_model_train", "on_train_epoch_end"),
]


@pytest.mark.parametrize("hook", OF_A_STEP)
def test_one_hook_of_the_module(hook: str) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        module = journal.recording(Module, L.LightningModule, hook)()
        run = trainer(kind, journal, val_check_interval=2)
        run.fit(module, datamodule=Data())
        return left(run, module)

    assert same(run)[0]


@pytest.mark.parametrize("hook", [hook for hook in hooks_of(Callback) if hook in OF_A_STEP])
def test_one_hook_of_a_callback(hook: str) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        module, callbacks = Module(), [Callback(), journal.recording(First, Callback, hook)()]
        run = trainer(kind, journal, callbacks=callbacks)
        run.fit(module, datamodule=Data())
        return left(run, module)

    assert same(run)[0]


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_one_hook_of_a_data_module(hook: str) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        return fit(kind, journal, data=journal.recording(Data, L.LightningDataModule, hook)())

    assert [call for _, call, *_ in same(run)[0] if call == f"Data.{hook}"]


@pytest.mark.parametrize(
    "hook",
    ["backward", "batch_to_device", "on_train_batch_start", "optimizer_step", "post_backward", "post_training_step",
     "pre_backward", "training_step"],
)  # fmt: skip
def test_one_method_of_a_strategy(hook: str) -> None:
    """A strategy that is not the plain one is asked for everything."""

    def run(kind: Kind, journal: Journal) -> Any:
        strategy = journal.recording(SingleDeviceStrategy, SingleDeviceStrategy, hook)(device="cpu")
        return fit(kind, journal, strategy=strategy, max_epochs=1)

    assert [call for _, call, *_ in same(run)[0] if call == f"SingleDeviceStrategy.{hook}"]


@pytest.mark.parametrize(
    "name",
    ["backward", "clip_gradients", "convert_input", "forward_context", "main_params", "optimizer_step", "post_backward",
     "pre_backward", "train_step_context"],
)  # fmt: skip
def test_one_method_of_a_precision(name: str) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        plugin = journal.recording(Precision, Precision, name)()
        return fit(kind, journal, plugins=[plugin], gradient_clip_val=0.5, max_epochs=1)

    assert [call for _, call, *_ in same(run)[0] if call == f"Precision.{name}"]


def test_hooks_put_on_an_instance() -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        module = Module()
        for hook in ("on_before_zero_grad", "on_after_backward", "on_train_batch_end"):
            setattr(module, hook, lambda *arguments, hook=hook: journal.note("instance", hook, *arguments))
        names = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step")
        of_callback = {
            hook: lambda *arguments, hook=hook: journal.note("lambda", hook, *arguments) for hook in names
        }  # fmt: skip
        return fit(kind, journal, module, callbacks=[LambdaCallback(**of_callback)])

    owners = {call.split(".")[0] for _, call, *_ in same(run)[0]}
    assert owners == {"First", "instance", "lambda"}


# ---- what is replaced in the middle of a fit ---------------------------------------------------------------


class Replaces(Module):
    """Does something in one of its hooks, once."""

    def __init__(self, hook: str, what: str, journal: Journal) -> None:
        super().__init__()
        self.hook, self.what, self.journal = hook, what, journal

    def on_train_start(self) -> None:
        self.replace("on_train_start", now=True)

    def on_train_epoch_start(self) -> None:
        self.replace("on_train_epoch_start", now=self.current_epoch == 1)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.replace("on_train_batch_start", now=self.global_step == 2)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.replace("on_train_batch_end", now=self.global_step == 2)

    def replace(self, hook: str, now: bool) -> None:
        if hook != self.hook or not now:
            return
        run: Any = self.trainer
        if self.what == "optimizers":
            run.strategy.setup_optimizers(run)
        elif self.what == "schedulers":
            run.lr_scheduler_configs[0].scheduler = torch.optim.lr_scheduler.ConstantLR(run.optimizers[0], 0.5)
        elif self.what == "callbacks":
            run.callbacks.append(self.journal.recording(Second, Callback)())
        elif self.what == "hook":
            self.on_after_backward = lambda: self.journal.note("instance", "on_after_backward")
        elif self.what == "hook twice":
            note = self.journal.note
            self.on_before_backward = lambda loss: note("instance", "on_before_backward")
            self.on_before_zero_grad = lambda optimizer: setattr(
                self, "on_before_backward", lambda loss: note("another", "on_before_backward")
            )
        elif self.what == "hook of a callback":
            run.callbacks[0].on_after_backward = lambda *_: self.journal.note("instance", "on_after_backward")
        elif self.what == "training_step":
            self.training_step = lambda batch, batch_idx: 2 * Module.training_step(self, batch, batch_idx)
        elif self.what == "clipping":
            run.gradient_clip_val = 0.1
        else:
            run.limit_val_batches = 0 if run.limit_val_batches else 1


WHAT = [
    "optimizers",
    "schedulers",
    "callbacks",
    "hook",
    "hook twice",
    "hook of a callback",
    "training_step",
    "clipping",
]


@pytest.mark.parametrize(
    ("hook", "what"),
    [
        *(("on_train_epoch_start", what) for what in (*WHAT, "validation")),
        *(("on_train_batch_end", what) for what in WHAT),
        *(("on_train_batch_start", what) for what in ("optimizers", "callbacks", "hook", "hook of a callback")),
        *(("on_train_start", what) for what in ("callbacks", "hook", "hook twice", "hook of a callback")),
    ],
)
def test_what_a_hook_replaces(hook: str, what: str) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        return fit(kind, journal, Replaces(hook, what, journal), limit_val_batches=0 if what == "validation" else 1)

    same(run)


# ---- steps of all kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind_of_module", KINDS)
def test_steps(kind_of_module: type[Module]) -> None:
    clips = {} if issubclass(kind_of_module, Manual | OwnClipping) else {"gradient_clip_val": 0.5}
    _, (steps, *_) = same(lambda kind, journal: fit(kind, journal, kind_of_module(), **clips))
    assert steps == {Ends: 2, Manual: 16, ManualClosures: 16}.get(kind_of_module, 8)


@pytest.mark.parametrize("kind_of_module", [Manual, Extras])
def test_steps_with_every_hook_overridden(kind_of_module: type[Module]) -> None:
    same(lambda kind, journal: fit(kind, journal, journal.recording(kind_of_module, L.LightningModule)()))


@pytest.mark.parametrize("kind_of_module", [NeverCalls, HasDeaf])
def test_a_closure_that_is_not_called(kind_of_module: type[Module]) -> None:
    """Lightning says so in three lines."""

    def run(kind: Kind, journal: Journal) -> Any:
        return fit(kind, journal, kind_of_module())

    assert "closure hasn't been executed" in outcome(run, L.Trainer)[1]
    assert outcome(run, Trainer)[1].startswith("InputError: the closure was not called")


def test_gradients_are_zeroed_between_the_passes() -> None:
    """Lightning: "called after training_step() and before optimizer.zero_grad()". Averages of weights are made there,
    for the forward pass of the next step."""
    journal = Journal()
    fit(Trainer, journal, journal.recording(Module, L.LightningModule)())
    hooks = [call.split(".")[-1] for _, call, *_ in journal]
    assert hooks.index("training_step") < hooks.index("on_before_zero_grad") < hooks.index("on_before_backward")


@pytest.mark.parametrize(
    "hook",
    ["setup", "on_train_start", "on_train_batch_start", "training_step", "on_before_zero_grad",
     "backward", "optimizer_step", "on_train_batch_end", "validation_step", "on_validation_end",
     "on_train_epoch_end", "on_fit_end"],
)  # fmt: skip
def test_an_error(hook: str) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ValueError(f"in {hook}")

    _, left_over = same(lambda kind, journal: fit(kind, journal, type("Fails", (Module,), {hook: fails})()))
    assert left_over == f"ValueError: in {hook}"


# ---- data of all kinds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "options", "steps"),
    [
        (Module, lambda: {"loaders": DataLoader(Stream(), batch_size=4)}, 8),
        (Module, lambda: {"loaders": DataLoader(Stream(), batch_size=4), "limit_train_batches": 3}, 6),
        (Module, lambda: {"loaders": DataLoader(Stream(), batch_size=4), "max_steps": 8, "max_epochs": -1}, 8),
        (Module, lambda: {"loaders": rows()}, 10),
        (OnOne, lambda: {"loaders": {"only": rows()}}, 10),
        (OnOne, lambda: {"loaders": [rows()]}, 10),
        (OnTwo, lambda: {"loaders": two()}, 8),
        (OnTwo, lambda: {"loaders": two("min_size")}, 6),
        (OnTwo, lambda: {"loaders": two("max_size")}, 8),
        (OnObjects, lambda: {"loaders": objects()}, 8),
        (Module, lambda: {"data": Moves()}, 8),
        (OnObjects, lambda: {"data": MovesBefore(), "limit_val_batches": 0}, 8),
    ],
    ids=["no length", "no length, limited", "no length, ended by steps", "rows", "one in a dict", "one in a list",
         "two", "the shorter of two",
         "the longer of two", "objects", "moved in its own way", "objects made of batches"],
)  # fmt: skip
def test_data(module: type[Module], options: Any, steps: int) -> None:
    assert same(lambda kind, journal: fit(kind, journal, module(), **options()))[1][0] == steps


def test_data_loaded_anew_in_each_epoch() -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        data = journal.recording(Data, L.LightningDataModule)()
        return fit(kind, journal, data=data, reload_dataloaders_every_n_epochs=1)

    assert [call for _, call, *_ in same(run)[0]].count("Data.train_dataloader") == 2


# ---- flags -------------------------------------------------------------------------------------------------


class Stops(Callback):
    """Asks for an end in one of its hooks, at one step."""

    def __init__(self, hook: str, step: int) -> None:
        def stop(run: Any, *_: Any) -> None:
            run.should_stop = run.should_stop or run.global_step == step

        setattr(self, hook, stop)


def stops(hook: str, step: int = 2, **flags: Any) -> Any:
    return pytest.param(lambda: {"callbacks": [Stops(hook, step)], **flags}, id=f"stop in {hook} {flags or ''}")


def early(monitor: str, **options: Any) -> EarlyStopping:
    return EarlyStopping(monitor, patience=0, min_delta=5.0, **options)


@pytest.mark.parametrize(
    "flags",
    [
        *(
            pytest.param(lambda flags=flags: flags, id=str(flags))
            for flags in (
                {"limit_train_batches": 3},
                {"limit_train_batches": 0.5, "limit_val_batches": 1},
                {"limit_train_batches": 0},
                {"limit_val_batches": 0},
                {"overfit_batches": 2},
                {"fast_dev_run": True},
                {"fast_dev_run": 2},
                {"max_steps": 8, "max_epochs": -1},
                {"max_steps": 0},
                {"max_epochs": 0},
                {"max_steps": 6, "max_epochs": -1, "limit_val_batches": 0},
                {"val_check_interval": 0.3},
                {"check_val_every_n_epoch": 2, "max_epochs": 3},
                {"check_val_every_n_epoch": None, "val_check_interval": 3, "max_epochs": 3},
                {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
                {"detect_anomaly": True},
                {"precision": "64-true"},
                {"precision": "bf16-mixed", "gradient_clip_val": 0.5},
                {"precision": "bf16-true"},
            )
        ),
        *(stops(hook) for hook in ("on_train_start", "on_train_batch_start", "on_before_backward")),
        *(stops(hook, 4) for hook in ("on_train_epoch_start", "on_train_epoch_end", "on_validation_end")),
        stops("on_train_batch_end"),
        stops("on_train_batch_end", min_epochs=2),
        stops("on_train_batch_end", min_steps=7, limit_val_batches=0),
        pytest.param(lambda: {"callbacks": [early("val/loss")], "max_epochs": 4}, id="early stopping"),
        pytest.param(lambda: {"callbacks": [early("val/loss")], "val_check_interval": 2}, id="in mid-epoch"),
        pytest.param(lambda: {"callbacks": [early("loss", check_on_train_epoch_end=True)]}, id="by the training"),
    ],
)
def test_flags(flags: Any) -> None:
    assert not isinstance(same(lambda kind, journal: fit(kind, journal, **flags()))[1], str)


def test_a_validation_more_where_steps_end_a_run_in_mid_epoch() -> None:
    """What the run leaves is judged; Lightning does not. All else is the same."""

    def run(kind: Kind, journal: Journal) -> Any:
        steps, _, _, weights = fit(kind, journal, max_steps=6, max_epochs=-1)
        return steps, weights

    (stock, there), (ours, here) = outcome(run, L.Trainer), outcome(run, Trainer)
    assert here == there
    calls = [call for _, call, *_ in ours]
    begins = calls.index("First.on_validation_start", calls.index("First.on_validation_end") + 1)
    ends = calls.index("First.on_validation_end returned", begins)
    # The counters of validation batches and the gradients, freed before it, are others from there on.
    stock, ours = ([entry[:9] for entry in journal] for journal in (stock, ours[:begins] + ours[ends + 1 :]))
    assert_same(stock, ours)


def test_two_fits_with_one_trainer() -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        module, run = Module(), trainer(kind, journal, callbacks=[journal.recording(First, Callback)()])
        run.fit(module, datamodule=Data())
        run.validate(module, datamodule=Data(), verbose=False)
        run.fit_loop.max_epochs = 3
        run.fit(module, datamodule=Data())
        return left(run, module)

    assert same(run)[1][0] == 12


@pytest.mark.parametrize("module", [Module, Manual, Everything])
def test_profiler(module: type[Module]) -> None:
    """The same actions, as often; the names of our loops are others."""
    counts = []
    for kind in (L.Trainer, Trainer):
        profiler = SimpleProfiler()
        callbacks = [First(), Second()]
        fit(kind, Journal(), module(), profiler=profiler, callbacks=callbacks, val_check_interval=2)
        names = {"[_TrainingEpochLoop]": "[EpochLoop]", "[_EvaluationLoop]": "[EvaluationLoop]"}
        recorded = profiler.recorded_durations
        counts.append(
            {
                next((action.replace(a, b) for a, b in names.items() if a in action), action): len(seconds)
                for action, seconds in recorded.items()
            }
        )
    assert counts[1] == counts[0]
    assert counts[1]["run_training_batch"] == counts[1]["[EpochLoop].train_dataloader_next"] == 8


def test_without_anything_else() -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        module, run = Module(), kind(barebones=True, max_epochs=2, accelerator="cpu", devices=1)
        run.fit(module, datamodule=Data())
        return left(run, module)

    same(run)


# ---- logged values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Logs, {"val_check_interval": 2}),
        (Logs, {"num_sanity_val_steps": 2, "log_every_n_steps": 1}),
        (Logs, {"log_every_n_steps": 0}),
        (Logs, {"log_every_n_steps": 3, "max_epochs": 3, "limit_val_batches": 0}),
        (Logs, {"fast_dev_run": 3}),
        (Logs, {"callbacks": [Stops("on_train_batch_end", 3)], "log_every_n_steps": 10}),
        (Logs, {"data": TwoForValidation(), "val_check_interval": 2}),
        (ManualLogs, {"val_check_interval": 2}),
    ],
    ids=["in mid-epoch", "each step", "never", "every third step", "trial run", "stopped", "two loaders", "manual"],
)
def test_logged_values(module: type[Module], options: dict[str, Any]) -> None:
    """What each hook of a callback finds logged, and what loggers are given, of which step, and when."""

    def run(kind: Kind, journal: Journal) -> Any:
        callbacks, logger = [Values(journal), *options.get("callbacks", [])], journal.recording(Log, Logger)()
        return fit(kind, journal, module(), **{**options, "callbacks": callbacks, "logger": logger})

    journal, _ = same(run)
    assert [call for _, call, *_ in journal].count("values.on_train_batch_end") >= 3


# ---- callbacks of Lightning's own --------------------------------------------------------------------------


class Trained(Module):
    """Only what is not frozen when it begins."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Unfreezes(builtin.BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


class HasRate(Module):
    lr = 0.1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.parametrize(
    ("make", "module", "options"),
    [
        (lambda: builtin.LearningRateMonitor(log_momentum=True), Module, {}),
        (lambda: builtin.StochasticWeightAveraging(0.05, 1, annealing_epochs=2), WithoutBatchNorm, {"max_epochs": 4}),
        (lambda: builtin.WeightAveraging(), Module, {"val_check_interval": 2}),
        (lambda: builtin.EMAWeightAveraging(decay=0.9), Module, {}),
        (lambda: Unfreezes(), Trained, {}),
        (lambda: builtin.ModelPruning("l1_unstructured", amount=0.3), WithoutBatchNorm, {}),
        (lambda: builtin.Timer("00:01:00:00"), Module, {}),
        (lambda: builtin.TQDMProgressBar(), Module, {"enable_progress_bar": True}),
        (lambda: builtin.DeviceStatsMonitor(cpu_stats=False), Module, {}),
    ],
    ids=["rates", "averages", "all averages", "moving averages", "unfreezes", "prunes", "timer", "bar", "devices"],
)
def test_a_callback(make: Any, module: type[Module], options: dict[str, Any]) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        logger = journal.recording(Log, Logger, "log_metrics")()
        return fit(kind, journal, module(), callbacks=[make()], logger=logger, **options)

    assert not isinstance(same(run)[1], str)


def test_weight_averaging_that_looks_at_all_samples_again_for_batchnorm() -> None:
    """In its last epoch no step is made. Lightning makes one, with gradients that are left over if there are any."""
    found = []
    for kind in (L.Trainer, Trainer):
        averaging = builtin.StochasticWeightAveraging(0.05, 1, annealing_epochs=2)
        steps, *_, weights = fit(kind, Journal(), callbacks=[averaging], max_epochs=3)
        found.append((steps, weights))
    (there, theirs), (here, ours) = found
    assert here == 12 == there - 1
    assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_train_steps": 2, "save_top_k": -1}, {"monitor": "val/loss"}, {"save_last": True, "every_n_epochs": 1},
        {"monitor": "loss", "save_top_k": 2, "every_n_train_steps": 1},
        {"save_on_train_epoch_end": True, "save_top_k": -1},
    ],
    ids=str,
)  # fmt: skip
def test_checkpoints_of_lightning(options: dict[str, Any], tmp_path: Path) -> None:
    def run(kind: Kind, journal: Journal) -> Any:
        saves = journal.recording(ModelCheckpoint, ModelCheckpoint)(folder(tmp_path, kind), "{epoch}-{step}", **options)
        fit(kind, journal, callbacks=[saves], val_check_interval=2, enable_checkpointing=True)
        return sorted(path.name for path in folder(tmp_path, kind).iterdir())

    assert same(run)[1]


def test_tuner(tmp_path: Path) -> None:
    """It runs the loops inside others, and puts optimizers, callbacks and counters back."""

    class Batches(Data):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(X, Y), batch_size=self.batch_size)

    def run(kind: Kind, journal: Journal) -> Any:
        module, data = HasRate(), Batches()
        run = trainer(kind, journal, default_root_dir=folder(tmp_path, kind))
        found: Any = Tuner(run).lr_find(module, datamodule=data, num_training=20, min_lr=1e-4, update_attr=False)
        size = Tuner(run).scale_batch_size(module, datamodule=data, max_trials=2, steps_per_trial=2)
        run.fit(module, datamodule=data)
        return found.results, size, left(run, module)

    assert not isinstance(same(run)[1], str)


# ---- several devices ---------------------------------------------------------------------------------------


class Leaves(Callback):
    """What each process has seen."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self.journal, self.path = journal, path

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save(list(self.journal), self.path / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize("devices", [1, 2])
def test_processes(devices: int, tmp_path: Path) -> None:
    """The loss that `on_train_batch_end` is given is that of the batch on all devices, in Lightning of each one's."""
    seen = []
    for kind in (L.Trainer, Trainer):
        journal, path = Journal(), folder(tmp_path, kind)
        path.mkdir(parents=True)
        module = journal.recording(WithoutBatchNorm, L.LightningModule)()
        flags: dict[str, Any] = {"devices": devices, "strategy": "ddp_fork", "use_distributed_sampler": False}
        run = trainer(kind, journal, callbacks=[journal.recording(First, Callback)(), Leaves(journal, path)], **flags)
        run.fit(module, datamodule=journal.recording(Shares, L.LightningDataModule)())
        seen.append([torch.load(path / f"{rank}.pt", weights_only=True) for rank in range(devices)])
    for journals in zip(*seen, strict=True):
        stock, ours = ([entry[:2] if "batch_end" in entry[1] else entry for entry in journal] for journal in journals)
        assert len(ours) > 300
        assert_same(stock, ours)
