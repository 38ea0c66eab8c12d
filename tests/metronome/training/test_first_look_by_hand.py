"""Losses worked out by hand, state in plain numbers, and code that a look must not break."""

import logging
import random
import weakref
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.metronome.training.test_first_look import Module, said


def masked(given: Tensor, y: Tensor) -> Tensor:
    mask = (y > 0).float()
    return (F.cross_entropy(given, y, reduction="none") * mask).sum() / mask.sum()


def vae(given: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(given, given.detach()) - 0.01 * torch.sum(1 + given - given.exp())


def dice(given: Tensor, y: Tensor) -> Tensor:
    p = given[:, :2].sigmoid()
    return 1 - 2 * (p * y[:, None]).sum() / (p.sum() + y.sum())


def advantage(given: Tensor, y: Tensor) -> Tensor:
    a = y.float()
    return -(given.log_softmax(1)[:, 0] * (a - a.mean()) / (a.std() + 1e-8)).mean()


def own_class_weights(given: Tensor, y: Tensor) -> Tensor:
    return (F.cross_entropy(given, y, reduction="none") / torch.bincount(y, minlength=3)[y]).mean()


def flipped(given: Tensor, y: Tensor) -> Tensor:
    return ((given - y[:, None].float().flip(0)) ** 2).mean()


def hardest(given: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(given, y, reduction="none").topk(len(y) // 2)[0].mean()


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda o, y: (o - y[:, None]).pow(2).sum(), "sum is a sum"),
        (lambda o, y: (o - y[:, None]).pow(2).sum() / 100, "sum is a sum"),
        (lambda o, y: (o - y[:, None]).pow(2).sum(0).mean(), "sum is a sum"),
        (masked, "sum is a sum"),
        (vae, "sum is a sum"),
        (lambda o, y: (o[y > 0] - 1).pow(2).mean(), "mean is a mean over rows"),
        (lambda o, y: F.triplet_margin_loss(o, o * 2, -o, reduction="sum"), "triplet_margin_loss is a sum"),
        (lambda o, y: (o - y[:, None]).pow(2).mean().sqrt(), "sqrt is taken of all samples together"),
        (lambda o, y: (o - y[:, None]).norm(), "norm is taken of all samples together"),
        (dice, "div takes two means"),
        (hardest, "topk is taken over samples"),
        (lambda o, y: F.cross_entropy(o - o.mean(0), y), "mean is taken over samples"),
        (lambda o, y: (o.softmax(0) * y[:, None]).mean(), "softmax is taken over samples"),
        (lambda o, y: -(o[:, 0] - torch.logcumsumexp(o[:, 0], 0)).mean(), "logcumsumexp is taken over samples"),
        (lambda o, y: F.cross_entropy(F.batch_norm(o, None, None, training=True), y), "batch_norm"),
        (advantage, "is taken over samples"),
        (own_class_weights, "bincount is taken over samples"),
        (flipped, "flip is taken over samples"),
    ],
)  # fmt: skip
def test_a_loss_by_hand_that_is_no_mean_over_samples(loss: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, Module(loss))
    assert why in line


class Penalized(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        weight = self.get_parameter("network.weight")
        size = sum((p.pow(2).sum() for p in self.parameters()), torch.zeros(()))
        apart = (weight @ weight.T - torch.eye(3)).norm() + torch.cat([p.flatten() for p in self.parameters()]).norm()
        return super().training_step(batch, batch_idx) + 0.01 * size + 0.01 * apart


class Uncertain(Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given = self.network(batch[0])
        losses = torch.stack([F.cross_entropy(given, batch[1]), F.mse_loss(given, batch[0][:, :3])])
        return (losses * torch.exp(-self.scale) + self.scale).sum()


class OneByOne(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given, rows = self.network(batch[0]), range(len(batch[0]))
        errors = torch.stack([(given[i] - batch[0][i, :3]).pow(2).mean().sqrt() for i in rows])
        return sum(F.cross_entropy(given[i : i + 1], batch[1][i : i + 1]) for i in rows) / len(rows) + errors.mean()  # type: ignore[reportReturnType]


class Distances(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given, n = self.network(batch[0]), len(batch[0])
        by_value = (given - 1).pow(2).sum() / given.numel() + (given - 1).pow(2).sum() * (1 / n)
        return by_value + 0.1 * given.exp().sum() / n + given.pow(2).mean(0).sum() + given.pow(2).sum(1).mean()


@pytest.mark.parametrize("module", [Penalized, Uncertain, OneByOne, Distances])
def test_nothing_is_said_of_a_mean_by_hand(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, module()) == []


class Schedule:
    def __init__(self) -> None:
        self.beta, self.seen = 0.0, deque[float](maxlen=8)


class Keeps(Module):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change, self.number, self.losses, self.array, self.schedule = change, 0, [0.0], np.zeros(2), Schedule()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.change(self)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: setattr(m, "number", m.number + 1), "number"),
        (lambda m: m.losses.append(1.0), "losses"),
        (lambda m: m.array.__iadd__(1), "array"),
        (lambda m: setattr(m.schedule, "beta", m.schedule.beta + 0.1), "schedule"),
        (lambda m: m.schedule.seen.append(1.0), "schedule"),
        (lambda m: random.random(), "random numbers"),
        (lambda m: np.random.beta(1, 1), "random numbers"),
        (lambda m: F.gumbel_softmax(torch.ones(2)), "random numbers"),
        (lambda m: None, None),
    ],
)
def test_plain_state_and_draws(change: Any, name: str | None, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, Keeps(change), level=logging.INFO) == []
    lines = [m for m in caplog.messages if "for each piece" in m or "random numbers" in m]
    assert [name in line for line in lines] == [True] if name else lines == []


class Center(Module):
    def __init__(self) -> None:
        super().__init__()
        self.center = torch.zeros(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        given = self.network(batch[0])
        loss = F.cross_entropy(given - self.center, batch[1])
        self.center.mul_(0.9).add_(0.1 * given.detach().square().sum())
        return loss


def test_a_plain_tensor_written_into(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, Center())
    assert "left for the piece before (center)" in line


class Gone(Module):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["owner"] = weakref.proxy(Schedule())  # which is there no longer


def vmapped(given: Tensor, y: Tensor) -> Tensor:
    return torch.func.vmap(lambda a, b: F.cross_entropy(a[None], b[None]))(given, y).mean()


def seen_in_validation(given: Tensor, y: Tensor) -> Tensor:
    with torch.inference_mode():
        still = torch.ones(3)
    return F.cross_entropy(given + still, y)


@pytest.mark.parametrize(
    "module",
    [
        Gone(),
        Module(vmapped),
        Module(seen_in_validation),
        Module(lambda o, y: F.cross_entropy(torch.dropout(o, 0.0, train=True), y)),
        Module(lambda o, y: F.cross_entropy(o + 0 * torch.randperm(n=3), y)),
        Module(torch.compile(lambda o, y: F.cross_entropy(o, y), backend="eager", fullgraph=True)),
    ],
)
def test_a_look_ends_no_training(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, module) == []
