"""Plans on paper: what they say of memory, time and failures, beside what is measured, counted and simulated."""

import json
import multiprocessing
import os
import signal
from math import inf
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from commands import PROJECT, Commands
from hydra import compose, initialize_config_dir
from jobs import Data, Net, fit
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from metronome.app.config.build import build_data
from metronome.app.measure.process import Request, measured
from metronome.app.paper import counting
from metronome.app.paper.asked import read
from metronome.app.paper.simulation import simulate
from metronome.app.paper.tracker import LiveBytes, bytes_of
from metronome.units import InputError
from metronome.units.paper.saves import Saving

LINEAR = ("experiment=linear", "paper=cluster")


# ---- the command ------------------------------------------------------------------------------------------------


def test_a_plan_of_what_is_not_here(commands: Commands) -> None:
    cluster = ("paper.devices=1024", "paper.num_samples=1e12", "data.batch_size=4096", "paper.step=0.1s")
    done = commands("plan", *LINEAR, *cluster, "optimizer=adam", "optimizer.lr=0.01", "budget=1epochs", "format=json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert (plan["num_samples"], plan["devices"], plan["micro_batch_size"]) == (10**12, 1024, 4)
    assert plan["total_steps"] == 10**12 // 4096
    paper = plan["paper"]
    assert (paper["hosts"], paper["parameters"], paper["optimizer"]) == (128, 11, "Adam")
    memory = paper["memory_bytes"]
    assert (memory["weights"], memory["gradients"], memory["exchange"]) == (44, 44, 44)  # 11 numbers, and buckets
    assert memory["optimizer"] == 2 * 44 + 2 * 4  # two moments of each, and the steps of two tensors
    assert memory["batch"] == 4 * 11 * 4  # ten numbers and a target
    assert paper["order_checked"]["steps"][-1] == plan["steps_per_epoch"] - 1
    step = paper["seconds_a_step"]
    ring = 2 * 1023 * 5e-6 + 2 * 1023 / 1024 * 44 / 50e9
    assert step["exchange"] == pytest.approx(ring)
    assert step["step"] == pytest.approx(0.1 + ring)  # a single bucket waits for the whole backward pass
    assert paper["samples_per_second"] == pytest.approx(4096 / step["step"])
    assert paper["seconds"] == pytest.approx(plan["total_steps"] * step["step"])
    assert paper["failures"]["seconds_between"] == pytest.approx(3600 / (1024 * 2e-5))
    assert list(commands.folder.iterdir()) == []


def test_as_text(commands: Commands) -> None:
    cluster = ("paper.devices=64", "paper.sharding=full", "paper.tensor_parallel=4", "paper.flops=1TFLOP/s")
    done = commands("plan", "experiment=digits", "paper=cluster", *cluster, "trainer.accumulate_grad_batches=auto")
    assert done.code == 0, done.err
    assert all(len(line) <= 80 for line in done.out.splitlines()), done.out
    for words in ("= 16 devices x 1 micro-batch of 4", "64 devices = 8 hosts of 8; FSDP2", "4 share out each layer",
                  "fits in 72.0 GB", "simulated", "goodput", "Daly 2006", "assumed", "Tensor parallel:"):  # fmt: skip
        assert words in " ".join(done.out.split()), done.out
    assert "real numbers" not in done.out  # it was counted without data


@pytest.mark.slow
def test_accumulation_follows_from_the_memory(commands: Commands) -> None:
    job = ("experiment=digits", "paper=cluster", "data.batch_size=1024", "paper.devices=2", "paper.reserve=0%")
    found = json.loads(
        commands("plan", *job, "trainer.accumulate_grad_batches=auto", "paper.memory=4MB", "format=json").out
    )
    fits, cut = found["paper"]["fits"]["samples"], found["accumulate_grad_batches"]
    assert found["paper"]["fits"]["does"]
    assert cut == -(-512 // fits) > 1
    assert found["micro_batch_size"] <= fits
    finer = json.loads(
        commands("plan", *job, f"trainer.accumulate_grad_batches={cut - 1}", "paper.memory=4MB", "format=json").out
    )
    assert not finer["paper"]["fits"]["does"]
    assert finer["paper"]["memory_bytes"]["all"] > 4e6 >= found["paper"]["memory_bytes"]["all"]


def test_a_batch_too_small_for_the_devices_is_told(commands: Commands) -> None:
    """Every number of such a plan is right, and the plan is not."""
    done = commands("plan", *LINEAR, "paper.devices=1024", "paper.step=0.1s")
    assert "note: a batch of 10 is shared out over 1,024: 1,014 get no sample; give data.batch_size=1024" in (
        " ".join(done.out.split())
    )
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.slow
def test_several_are_one_table(commands: Commands) -> None:
    done = commands("plan", *LINEAR, "paper.step=0.1s", "-m", "paper.devices=2,64,7", "paper.tensor_parallel=2")
    lines = done.out.splitlines()
    assert lines[0].split() == ["devices", "micro-batch", "memory", "fits", "step", "run", "goodput"]
    assert [line.split()[0] for line in lines[1:4]] == ["2", "64", "7"]
    assert "does not divide" in " ".join(lines[3:])


CLUSTER = yaml.safe_load((PROJECT / "conf/paper/cluster.yaml").read_text())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"bandwidth": 400}, "paper.bandwidth=400 is no number of bytes/s with its unit; write e.g. 400Gb/s"),
        ({"devices": 12, "tensor_parallel": 8}, "paper.tensor_parallel=8 does not divide the 12 devices"),
        ({"devices": 32, "tensor_parallel": 16}, "does not divide the 8 devices of a host"),
        ({"sharding": "some"}, "paper.sharding=some is neither none nor full"),
        ({"reserve": "100%"}, "paper.reserve=100% is no part below 100%"),
        ({"step": "1s", "flops": "1TFLOP/s"}, "give one of them"),
        ({"failures": -1}, "paper.failures=-1 is no number of failures an hour"),
        ({"bandwith": "1GB/s"}, "no key 'bandwith' in paper; did you mean paper.bandwidth"),
        ({"overlap": "yes"}, "paper.overlap=yes is neither true nor false"),
        ({"memory": "0GB"}, "paper.memory=0GB must be more than 0"),
    ],
)
def test_mistakes_in_what_is_stated(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as refused:
        read(CLUSTER | changes, {"devices": 8, "num_nodes": 2})
    assert line in str(refused.value)


def test_the_layout_is_the_trainers_unless_another_is_stated() -> None:
    fsdp = {"_target_": "lightning.pytorch.strategies.ModelParallelStrategy", "tensor_parallel_size": 4}
    found = read(CLUSTER, {"devices": 8, "num_nodes": 128, "strategy": fsdp})
    assert (found.devices, found.hosts, found.sharded, found.tensor_parallel) == (1024, 128, True, 4)
    assert not read(CLUSTER, {"devices": 8, "strategy": "ddp"}).sharded
    assert not read(CLUSTER | {"sharding": "none"}, {"devices": 8, "strategy": fsdp}).sharded
    with pytest.raises(InputError, match=r"write paper\.devices=1024"):
        read(CLUSTER, {"devices": "auto"})
    with pytest.raises(InputError, match="paper has no memory; begin a file of your own with"):
        read({key: value for key, value in CLUSTER.items() if key != "memory"}, {"devices": 8})


def test_a_mistake_is_one_line(commands: Commands) -> None:
    done = commands("plan", *LINEAR, "data.batch_size=5000")
    assert (done.code, done.out) == (2, "")
    assert "larger than the 1,000 training samples" in done.err
    assert done.err.count("\n") == 1


def test_only_plan_knows_it(commands: Commands) -> None:
    done = commands("train", *LINEAR)
    assert done.code == 2
    assert "only scripts/plan.py knows" in done.err
    assert "paper=cluster paper.devices=4" in commands("plan", LINEAR[0], "paper.devices=4").err


# ---- memory -----------------------------------------------------------------------------------------------------


def test_live_bytes() -> None:
    """Of two layers by hand: inputs, hidden numbers and gradients come and go."""
    layers = nn.Sequential(nn.Linear(100, 100, bias=False), nn.ReLU(), nn.Linear(100, 100, bias=False))
    inputs, matrix, some = torch.randn(50, 100), 100 * 100 * 4, 50 * 100 * 4
    live = LiveBytes()
    live.watch_gradients(layers)
    with live:
        output = layers(inputs)
        assert live.now == 2 * some  # what goes into the second layer, which is what comes out of ReLU, and its output
        output.sum().backward()
        assert live.gradients == 2 * matrix
        del output
        assert live.now == 2 * matrix
    assert 2 * matrix + some <= live.peak <= 2 * matrix + 4 * some + 100
    assert bytes_of(list(layers.parameters())) == 2 * matrix


def planned_memory(commands: Commands, *words: str) -> dict[str, Any]:
    done = commands("plan", "paper=cluster", *words, "format=json")
    assert done.code == 0, done.err
    return json.loads(done.out)["paper"]


def profiled(settings: dict[str, Any], answer: Any) -> None:
    """In a process of its own: what a training's steps keep, and the most bytes at one time but for its data set."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as made:
        found = measured(Request(settings, [], 1e9, validates=False))["memory"]
    now, most, events = 0, 0, made.profiler.kineto_results.events()  # pyright: ignore
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        now += event.nbytes()  # pyright: ignore
        most = max(most, now)
    data: Any = build_data(settings)
    data.setup("fit")
    splits = [getattr(split, "columns", split) for split in data.splits]
    answer.send((found, most - bytes_of([part if isinstance(part, tuple) else list(part) for part in splits])))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["digits", "text"])
@pytest.mark.parametrize("parts", [1, 4])
def test_one_device_beside_what_is_measured(experiment: str, parts: int, commands: Commands) -> None:
    """Of a real training: weights, gradients and states to the byte, and the most that PyTorch's allocator gave out at
    one time, without the data set."""

    size = 256 if experiment == "digits" else 32
    words = (f"experiment={experiment}", "optimizer=adamw", "optimizer.lr=1e-4", "scheduler=constant", "callbacks=none",
             "logger=none", f"data.batch_size={size}", "data.shuffle=false", f"trainer.accumulate_grad_batches={parts}",
             "num_threads=1")  # fmt: skip
    monkey = pytest.MonkeyPatch()
    monkey.setattr(counting, "_LOOKED_AT", 1)  # the first micro-batch, which is no longer padded than it is
    memory = planned_memory(commands, *words)["memory_bytes"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        added = [f"+{word}" if word.startswith("experiment") else word for word in words]
        config = compose("train", overrides=[*added, "budget=3 steps", f"run_dir={commands.folder}"])
    settings: Any = OmegaConf.to_container(config, resolve=True)
    settings["trainer"] |= {"accelerator": "cpu", "limit_val_batches": 0, "num_sanity_val_steps": 0}
    context = multiprocessing.get_context("fork")  # the profiler loses events of a second training in a process
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=profiled, args=(settings, theirs))
    process.start()
    found, most = ours.recv()
    process.join()
    monkey.undo()
    for part, name in (("weights", "parameters"), ("gradients", "gradients"), ("optimizer", "optimizer")):
        assert memory[part] == found[name]
    print(f"{experiment} in {parts}: {memory['all'] / 1e6:.2f} MB counted, {most / 1e6:.2f} measured")
    assert most == pytest.approx(memory["all"], rel=0.01)


class Weighs(L.LightningModule):
    """Leaves in a file what its process keeps after some steps."""

    def __init__(self, folder: Path, shards: bool) -> None:
        super().__init__()
        self.folder, self.shards = folder, shards
        self.net = nn.ModuleList([nn.Linear(10, 33), nn.Linear(33, 33), nn.Linear(33, 1)])

    def configure_model(self) -> None:
        if self.shards:
            from torch.distributed.fsdp import fully_shard

            for layer in self.net:
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])  # pyright: ignore
            fully_shard(self, mesh=self.device_mesh["data_parallel"])  # pyright: ignore

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        hidden = batch[0].float()
        for layer in self.net:
            hidden = layer(hidden)
        return nn.functional.mse_loss(hidden, batch[1].float())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.global_step < 1:
            return
        (optimizer,) = self.trainer.optimizers
        state = [part for of_one in optimizer.state.values() for part in of_one.values()]
        found = {
            "weights": local_bytes(self.parameters()),
            "gradients": local_bytes(p.grad for p in self.parameters() if p.grad is not None),
            "optimizer": local_bytes(state),
        }
        (self.folder / f"{self.trainer.global_rank}.json").write_text(json.dumps(found))


def local_bytes(tensors: Any) -> int:
    return sum(bytes_of(t.to_local() if hasattr(t, "to_local") else t) for t in tensors)


def two_processes(rank: int, folder: str, shards: bool, port: int) -> None:
    """Lightning's own Trainer: the layout is what is looked at."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    from jobs import X, Y
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
    from torch.utils.data import DataLoader, TensorDataset

    kind: Any = ModelParallelStrategy if shards else DDPStrategy
    sizes = {"data_parallel_size": 2, "tensor_parallel_size": 1} if shards else {}
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy=kind(process_group_backend="gloo", **sizes), max_steps=3, logger=False,
        plugins=[LightningEnvironment()], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Weighs(Path(folder), shards), DataLoader(TensorDataset(X, Y), batch_size=8))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_beside_what_they_keep(sharding: str, commands: Commands, tmp_path_factory: Any) -> None:
    """DDP and FSDP2 on gloo: weights, gradients and states of the fuller process, to the byte."""
    from lightning.fabric.plugins.environments.lightning import find_free_network_port
    from torch.multiprocessing.spawn import start_processes

    folder = tmp_path_factory.mktemp("weighed")
    arguments = (str(folder), sharding == "full", find_free_network_port())
    start_processes(two_processes, arguments, 2, start_method="spawn")  # pyright: ignore
    each = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    model = (
        f"model._target_={__name__}.Weighs",
        "~model.network",
        "~model.optimizer",
        "~model.scheduler",
        f"+model.folder={folder}",
        "+model.shards=false",
    )
    paper = planned_memory(commands, "experiment=linear", *model, "paper.devices=2", f"paper.sharding={sharding}")
    for part in ("weights", "gradients", "optimizer"):
        assert paper["memory_bytes"][part] == max(one[part] for one in each), (part, each)


# ---- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "written", "restart", "mean", "every"),
    [
        (60, 0, 600, 86_400, None),
        (60, 0, 600, 3_600, None),
        (300, 0, 900, 1_800, None),  # a bad cluster: most of the time is lost
        (1, 400, 600, 7_200, None),  # in the background
        (20, 0, 0, 3_600, 3_600),  # too seldom
        (20, 0, 600, 3_600, 30),  # too often
    ],
)
def test_failures_beside_a_simulation(
    held: float, written: float, restart: float, mean: float, every: float | None
) -> None:
    saving = Saving(held, written, restart, mean)
    every = every or saving.best
    made = simulate(saving, every, work=200 * mean, seed=1)
    assert made.failures > 50_000
    formula = saving.goodput(every)
    print(
        f"C {held} w {written} R {restart} M {mean} z {every:.0f}: {formula:.4f} {made.goodput:.4f} +- {made.error:.5f}"
    )
    assert abs(made.goodput - formula) < 4 * made.error + 5e-4  # the end of a run is no whole period
    assert made.error < 0.003


def test_nothing_else_is_as_good_as_the_best() -> None:
    saving = Saving(60, 0, 600, 7_200)
    best = simulate(saving, saving.best, 200 * 7_200, seed=2)
    for factor in (0.4, 2.5):
        assert simulate(saving, factor * saving.best, 200 * 7_200, seed=2).goodput < best.goodput - 5 * best.error
    assert saving.between_failures < inf


class Dies(Callback):
    """Kills its process with SIGKILL after so many steps of this life."""

    def __init__(self, after: float) -> None:
        self.left = after

    def on_train_batch_end(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:  # within the step that was just made
            os.kill(os.getpid(), signal.SIGKILL)


def a_life(folder: Path, after: float, every: int, steps: int) -> None:
    saves = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    last = folder / "last.ckpt"
    fit(
        model=Net(), data=Data(batch_size=16), callbacks=[Dies(after), saves], max_epochs=-1, max_steps=steps,
        checkpoint=str(last) if last.is_file() else None, enable_checkpointing=True, enable_progress_bar=False,
    )  # fmt: skip


def steps_saved(folder: Path) -> int:
    last = folder / "last.ckpt"
    return torch.load(last, weights_only=True)["global_step"] if last.is_file() else 0


@pytest.mark.slow
def test_a_training_that_is_killed_at_random(tmp_path: Path) -> None:
    """Real saves, real kills, counted in steps: what is lost is what the formula says, within its error."""
    mean, every, steps = 40.0, 16, 1_000
    draw, made, lives = np.random.default_rng(3), 0.0, 0
    context = multiprocessing.get_context("fork")
    saved_at = 0
    while lives < 1_000:
        after = float(draw.exponential(mean))
        process = context.Process(target=a_life, args=(tmp_path, after, every, steps))
        process.start()
        process.join()
        lives += 1
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        made, saved_at = made + after, steps_saved(tmp_path)
    made += steps - saved_at
    assert steps_saved(tmp_path) == steps // every * every
    predicted = Saving(1e-9, 0.0, 0.0, mean).goodput(every)
    error = simulate(Saving(1e-9, 0.0, 0.0, mean), every, steps).error * 400**0.5  # of a single run
    print(f"{lives} lives: {steps / made:.3f} of the steps were kept, predicted {predicted:.3f} +- {error:.3f}")
    assert abs(steps / made - predicted) < 2.5 * error
    assert lives > 15
