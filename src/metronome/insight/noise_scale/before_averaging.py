"""Each device's own gradient, looked at in the moment before the devices' gradients are averaged."""

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from metronome.insight.noise_scale.pieces import Pieces


class BeforeAveraging:
    """Put into DistributedDataParallel as its communication hook; it averages as that does by itself, bit for bit.

    `pieces` is told of the gradients of a step in which it is not None.
    """

    def __init__(self, model: DistributedDataParallel) -> None:
        self.pieces: Pieces | None = None
        self._processes = model.process_group
        # A multiplication, as PyTorch's own: division would round otherwise on three devices.
        self._factor = 1.0 / dist.get_world_size(self._processes)
        model.register_comm_hook(self, _look_and_average)


def _look_and_average(state: BeforeAveraging, bucket: dist.GradBucket) -> Future[Tensor]:  # pyright: ignore
    if state.pieces is not None:
        state.pieces.meet(bucket.parameters(), bucket.gradients())
    buffer = bucket.buffer().mul_(state._factor)
    work: Any = dist.all_reduce(buffer, group=state._processes, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])
