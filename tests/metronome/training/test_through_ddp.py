"""By way of DistributedDataParallel only where gradients meet: when that is so, and what it leaves behind."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from metronome.training.step.through_ddp import ThroughDDP, through_ddp


class Net(L.LightningModule):
    def __init__(self, has_buffers: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        if has_buffers:
            self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 7:
            raise ArithmeticError
        return self(batch).mean()


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def way(module: Net, prepare: Any = None, **options: Any) -> ThroughDDP | None:
    strategy: Any = DDPStrategy(**options)
    strategy._model = DistributedDataParallel(module, **options)
    if prepare is not None:
        prepare(strategy.model)
    return through_ddp(strategy, module)


def test_it_is_called_as_forward_and_leaves_nothing() -> None:
    module = Net()
    through = way(module)
    assert through is not None
    calls = []
    through.wrapper.register_forward_hook(lambda *_: calls.append(1))
    x = torch.ones(3, 2)
    loss = through(x, 0)
    loss.backward()
    assert (calls, "forward" in vars(module)) == ([1], False)
    torch.testing.assert_close(module.layer.weight.grad, torch.ones(1, 2))
    with pytest.raises(ArithmeticError):
        through(x, 7)
    assert "forward" not in vars(module)


def test_a_forward_of_somebody_stays() -> None:
    module, own = Net(), lambda x: torch.zeros(1, requires_grad=True)
    module.forward = own  # pyright: ignore
    through = way(module)
    assert through is not None
    assert through(torch.ones(3, 2), 0).item() == 0
    assert module.forward is own


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True, "bucket_cap_mb": 5}])
def test_where_it_serves(options: dict[str, Any]) -> None:
    assert way(Net(), **options) is not None
    assert way(Net(has_buffers=True), broadcast_buffers=False) is not None


def test_where_the_wrapper_does_more() -> None:
    """Buffers of the first device, gradients kept in another way; no wrapper at all."""
    assert way(Net(has_buffers=True)) is None
    assert way(Net(), gradient_as_bucket_view=True) is None
    assert through_ddp(SimpleNamespace(model=Net()), Net()) is None


def test_hooks_see_every_pass() -> None:
    """Of the module, of the wrapper, of all modules; also those that come when the training has long begun."""
    module, calls = Net(), []
    through = way(module)
    assert through is not None
    through.alone(torch.ones(3, 2), 0)
    registers: list[Any] = [
        through.wrapper.register_forward_pre_hook,
        module.register_forward_hook,
        nn.modules.module.register_module_forward_hook,
    ]
    # The module is called as a whole, and its forward by training_step.
    ours, all_of_them = {DistributedDataParallel: 1}, {DistributedDataParallel: 1, Net: 2, nn.Linear: 1}
    for register, expected in zip(registers, [ours, {Net: 2}, all_of_them], strict=True):
        handle = register(lambda owner, *_: calls.append(type(owner)))
        for each in (through.alone, through):
            calls.clear()
            each(torch.ones(3, 2), 0)
            assert Counter(calls) == expected
        handle.remove()


def test_a_forward_that_training_step_puts_there_stays() -> None:
    other: Any = lambda x: x  # noqa: E731

    class Puts(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.forward = other
            return self(batch).mean()

    module = Puts()
    through = way(module)
    assert through is not None
    through(torch.ones(3, 2), 0)
    assert module.forward is other


def test_a_pass_alone_is_one_without_sync() -> None:
    """Also for what calls the wrapper itself, or asks whose forward pass it is, as torch.compile does."""
    seen = []

    class Asks(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            active = DistributedDataParallel._get_active_ddp_module()  # pyright: ignore
            seen.append((active is through.wrapper, through.wrapper.require_backward_grad_sync))  # pyright: ignore
            return self(batch).mean()

    through = way(Asks())
    assert through is not None
    with through:
        through.alone(torch.ones(3, 2), 0)
    through(torch.ones(3, 2), 0)
    assert seen == [(True, False), (True, True)]
