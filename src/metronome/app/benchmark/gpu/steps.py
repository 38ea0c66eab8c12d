"""What a step on a GPU costs: a loop tuned by hand beside ours, as `trainer=gpu_fast` sets it up."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from metronome.app.benchmark.asked import Asked
from metronome.app.benchmark.gpu.networks import GPT2, next_word, resnet50, tokens
from metronome.app.benchmark.measuring import Case, Stopwatch, Way
from metronome.app.benchmark.tasks import Task, cross_entropy_of_bytes, images_of_bytes, resnet18
from metronome.app.benchmark.ways import metronome
from metronome.training.speed import tf32

_sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
_adamw = partial(torch.optim.AdamW, lr=1e-4, fused=True)
_PART = 1 / 5
# Whole batches only: another shape would be compiled anew.
TASKS = {
    "resnet18": Task(
        1_024, partial(images_of_bytes, 49 * 1_024, 3, 32, 32), resnet18, cross_entropy_of_bytes, _sgd, _PART
    ),
    "resnet50": Task(
        128, partial(images_of_bytes, 16 * 128, 3, 224, 224), resnet50, cross_entropy_of_bytes, _sgd, _PART
    ),
    "gpt2": Task(16, partial(tokens, 256 * 16, 1_024, 50_257), GPT2, next_word, _adamw, _PART),
}
TITLES = {
    "resnet18": "ResNet-18, 3x32x32 bytes, batch 1,024, SGD",
    "resnet50": "ResNet-50, 3x224x224 bytes, batch 128, SGD",
    "gpt2": "GPT-2 small, 1,024 words, batch 16, AdamW",
}
TUNED, METRONOME = "loop tuned by hand", "Metronome, as gpu_fast"
FLAGS = {"channels_last": True, "allow_tf32": True, "benchmark": True}
_WARMUP, _CHECKED = 20, 5


@dataclass(frozen=True)
class Rig:
    """Where it runs and how: a test has a smaller one.

    Attributes:
        device: that trains.
        backend: of torch.compile.
        precision: of Lightning's flag of that name; bf16-mixed, or 32-true.
        wait: until the device has done all that it was given.
    """

    device: str = "cuda"
    backend: str = "inductor"
    precision: str = "bf16-mixed"
    wait: Callable[[], Any] = torch.cuda.synchronize

    def clock(self) -> float:
        self.wait()
        return perf_counter()


def tuned(task: Task, stopwatch: Stopwatch, rig: Rig, *, shuffle: bool = True) -> nn.Module:
    """Data on the device, a compiled network with its channels last, bfloat16, a fused optimizer, and no wait."""
    torch.compiler.reset()  # as ours does: what the ways before have compiled counts against a limit
    network = task.start().to(rig.device, memory_format=torch.channels_last)  # pyright: ignore
    optimizer = task.optimizer(network.parameters())
    x, y = (column.to(rig.device) for column in task.data())
    compiled: Any = torch.compile(network, backend=rig.backend)
    torch.backends.cudnn.benchmark = True
    with tf32(True):
        while True:
            order = (torch.randperm if shuffle else torch.arange)(len(x), device=rig.device)
            for index in order.split(task.batch_size):
                optimizer.zero_grad()
                with torch.autocast(rig.device, torch.bfloat16, enabled=rig.precision == "bf16-mixed"):
                    loss = task.loss(compiled, x[index], y[index])
                loss.backward()
                optimizer.step()
                if stopwatch.step_done():
                    return network


def ours(task: Task, stopwatch: Stopwatch, rig: Rig, *, shuffle: bool = True) -> nn.Module:
    """Trainer and DataModule with the flags of conf/trainer/gpu_fast.yaml."""
    flags: dict[str, Any] = {"accelerator": rig.device, "precision": rig.precision, "compile": rig.backend, **FLAGS}
    return metronome(task, stopwatch, shuffle=shuffle, **flags)


def gpu_case(name: str, asked: Asked, rig: Rig | None = None, task: Task | None = None) -> Case:
    """A case in `TASKS`: microseconds a step, from one moment at which the GPU has nothing left to do to another."""
    rig, task = rig or Rig(), task or TASKS[name]

    def measure(training: Callable[..., nn.Module]) -> float:
        stopwatch = Stopwatch(rig.clock, task.steps(asked.steps), _WARMUP)
        training(task, stopwatch, rig)
        return stopwatch.micros

    ways = [Way(way, partial(measure, training), (TUNED,)) for way, training in ((TUNED, tuned), (METRONOME, ours))]
    check = partial(_apart_in_words, task, rig)
    return Case(f"{name} on a GPU", TITLES[name], "us a step", ways, ("tuned",), shows_added=True, check=check)


def apart(task: Task, rig: Rig) -> tuple[float, float]:
    """How far weights are apart after a few batches in the same order, as a part of the way that they have come.

    Returns:
        Those of both ways; and, to compare with, those of the tuned loop and of the same one with the kernels of eager
        mode: rounding alone, of which there is much in bfloat16.
    """
    begin = _weights(task.start())
    ends = []
    for training, backend in ((tuned, rig.backend), (ours, rig.backend), (tuned, "eager")):
        stopwatch = Stopwatch(rig.clock, _CHECKED - 1, warmup=1)
        ends.append(_weights(training(task, stopwatch, replace(rig, backend=backend), shuffle=False)))
    way = (ends[0] - begin).norm()
    return float((ends[1] - ends[0]).norm() / way), float((ends[2] - ends[0]).norm() / way)


def _apart_in_words(task: Task, rig: Rig) -> str:
    both, rounding = apart(task, rig)
    return (
        f"after {_CHECKED} steps in the same order the weights are {both:.1%} of their way apart; those of the tuned "
        f"loop compiled and not, {rounding:.1%}"
    )


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().cpu().double().flatten() for parameter in network.parameters()])
