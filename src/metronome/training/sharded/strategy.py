"""The strategy of `trainer=fsdp`: FSDP2 and tensor parallelism, by way of Lightning's ModelParallelStrategy."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from metronome.training.checkpoints.sharded.folder import is_sharded
from metronome.training.sharded.norms import clip_norm, clip_values
from metronome.training.sharded.optimizers import suit
from metronome.training.sharded.spread import is_spread, like_the_first, outputs_of, parallelize, roots_of, spread
from metronome.training.sharded.tensors import gathered, part_like, states_like
from metronome.training.sharded.told import of_module, of_optimizer, once_only
from metronome.units import InputError

DATA, TENSOR = "data_parallel", "tensor_parallel"  # the mesh's dimensions, by Lightning's names


class ShardedStrategy(ModelParallelStrategy):
    """Every device keeps a part of each weight, of its gradient and of the optimizer's state.

    A module without a `configure_model` is spread by itself: its networks, block by block. One that has it is left to
    spread itself (`self.device_mesh`), as under Lightning's own strategy. Weights are made as on one device; optimizers
    come after. Batches are shared out over the data-parallel dimension; the devices of a tensor-parallel group take the
    same share, each with its part of the network, for which the network has a method

        def parallelize(self, mesh): ...

    that is given the mesh of that dimension, and replaces its parts' weights (`torch.distributed.tensor.parallel`).

    A checkpoint is a folder to which each device writes its part. Any layout goes on from any other's.

    Args:
        data_parallel_size: among how many a batch is shared out, and each weight cut; auto: all devices there are.
        tensor_parallel_size: devices that work on one share together.
        shard_modules: names of the classes whose modules are spread one by one; None: what repeats in a list or a
            sequence.
        activation_checkpointing: whether those forget what they have worked out in the forward pass, and work it out
            again in the backward one: less memory, more time, the same numbers.
        reshard_after_forward: whether weights are let go of after each pass; false: after a step, for more memory.
        reduce_each_micro_batch: whether gradients meet after each micro-batch, and not only in a step's last: less
            memory, by a gradient of the whole model, and more traffic.
        sharded_checkpoints: false: one file with whole weights, which pass through the first device's memory.
        options: of ModelParallelStrategy: `process_group_backend`, `timeout`.

    Raises:
        InputError: for sizes that are none.
    """

    def __init__(
        self,
        data_parallel_size: int | str = "auto",
        tensor_parallel_size: int = 1,
        *,
        shard_modules: Sequence[str] | None = None,
        activation_checkpointing: bool = False,
        reshard_after_forward: bool = True,
        reduce_each_micro_batch: bool = False,
        sharded_checkpoints: bool = True,
        **options: Any,
    ) -> None:
        sizes = (("data_parallel_size", data_parallel_size), ("tensor_parallel_size", tensor_parallel_size))
        for name, size in sizes:
            is_count = isinstance(size, int) and not isinstance(size, bool) and size >= 1
            if not is_count and (size != "auto" or name == "tensor_parallel_size"):
                or_auto = ", or auto" if name == "data_parallel_size" else ""
                raise InputError(f"trainer.strategy.{name}={size!r} is not a number of devices from 1 up{or_auto}")
        super().__init__(
            data_parallel_size, tensor_parallel_size, save_distributed_checkpoint=False, **options  # pyright: ignore
        )  # fmt: skip
        self.tensor_parallel_size, self.wanted = tensor_parallel_size, data_parallel_size
        self.shard_modules = None if shard_modules is None else list(shard_modules)
        self.activation_checkpointing, self.reshard_after_forward = activation_checkpointing, reshard_after_forward
        self.reduce_each_micro_batch, self.sharded_checkpoints = reduce_each_micro_batch, sharded_checkpoints
        self._roots: list[Any] = []
        self._outputs: list[Tensor] = []  # of the networks, in the micro-batch being made

    # ---- the mesh -----------------------------------------------------------------------------------------------

    def check_sizes(self) -> None:
        """Raises InputError if they are not those of the devices there are."""
        devices, tensor = self.world_size, self.tensor_parallel_size
        data = self.wanted if isinstance(self.wanted, int) else max(1, devices // tensor)
        if data * tensor != devices:
            raise InputError(
                f"trainer.strategy.data_parallel_size={self.wanted} times tensor_parallel_size={tensor} must be the "
                f"number of devices, {devices}; leave data_parallel_size at auto, and take a tensor_parallel_size that "
                f"divides {devices}"
            )

    @property
    def data_devices(self) -> int:
        return self.world_size // self.tensor_parallel_size

    @property
    def data_rank(self) -> int:
        return self.global_rank // self.tensor_parallel_size

    @property
    def data_group(self) -> Any:
        return None if self.tensor_parallel_size == 1 else self.device_mesh[DATA].get_group()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self.data_devices, "rank": self.data_rank}

    def setup_environment(self) -> None:
        self._data_parallel_size = self.data_devices
        if self._device_mesh is None:
            super().setup_environment()
        else:  # of a fit, before a test: its groups do for both
            Strategy.setup_environment(self)
            self.lightning_module._device_mesh = self._device_mesh  # pyright: ignore

    # ---- the module ---------------------------------------------------------------------------------------------

    def setup(self, trainer: Any) -> None:
        module: Any = self.lightning_module
        if is_overridden("configure_model", module):
            super().setup(trainer)
        else:
            self._spread_and_set_up(trainer, module)
        self._roots, self._outputs = roots_of(module), []
        if not is_spread(module):
            raise InputError(
                f"{type(module).__name__} has no weight that is spread over devices; its configure_model must call "
                "fully_shard, or be left out"
            )
        for optimizer in self.optimizers:
            suit(optimizer)
        for root in self._roots:
            root.register_forward_hook(self._look_at_outputs)
        precision: Any = self.precision_plugin
        precision.clip_grad_by_norm = partial(_clip, clip_norm)
        precision.clip_grad_by_value = partial(_clip, clip_values)
        if self.data_group is not None:
            for metric in module.modules():
                if isinstance(metric, Metric) and metric.process_group is None:
                    metric.process_group = self.data_group

    def _spread_and_set_up(self, trainer: Any, module: Any) -> None:
        """What Lightning's does, with a module that does not spread itself."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if not is_spread(module):
            self.precision_plugin.convert_module(module)
            if self._layer_sync is not None:
                self._layer_sync.apply(module)
            like_the_first(module, self.root_device)
            if self.tensor_parallel_size > 1:
                parallelize(module, self.device_mesh[TENSOR])
            spread(
                module,
                self.device_mesh[DATA],
                shard_modules=self.shard_modules,
                activation_checkpointing=self.activation_checkpointing,
                reshard_after_forward=self.reshard_after_forward,
                precision=self.precision_plugin,
            )
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    # ---- a step -------------------------------------------------------------------------------------------------

    @contextmanager
    def block_backward_sync(self) -> Generator:
        """Around the backward passes of a step but the last: gradients stay where they are."""
        if self.reduce_each_micro_batch:
            yield None
            return
        self._meet(False)
        try:
            yield None
        finally:
            self._meet(True)

    def _meet(self, wanted: bool) -> None:
        for root in self._roots:
            root.set_requires_gradient_sync(wanted)
            root.set_is_last_backward(wanted)
            if not self.reshard_after_forward:
                root.set_reshard_after_backward(wanted)

    def _look_at_outputs(self, network: nn.Module, inputs: Any, outputs: Any) -> None:
        found = outputs_of(outputs) if torch.is_grad_enabled() else []
        for output in found:
            output.register_hook(once_only(self.lightning_module))
        if hasattr(self.lightning_module, "loss_weight"):
            self._outputs.extend(found)

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._outputs.clear()
        super().on_train_batch_start(*arguments)  # pyright: ignore
        self.share_buffers()

    def weighs_nothing(self, loss: Tensor) -> Tensor:
        """In the place of the loss of a micro-batch that does not count, which may be 0/0: 0, with a backward pass
        through the same blocks as on the other devices, which they all meet in."""
        outputs = self._outputs or [loss]
        return sum([(output * 0).sum() for output in outputs], torch.zeros((), device=loss.device))

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        self._outputs.clear()
        with of_module(self.lightning_module):
            return super().training_step(*arguments, **named)

    def backward(self, *arguments: Any, **named: Any) -> Any:
        with of_module(self.lightning_module):
            return super().backward(*arguments, **named)

    def validation_step(self, *arguments: Any, **named: Any) -> Any:
        with of_module(self.lightning_module):
            return super().validation_step(*arguments, **named)

    def optimizer_step(self, optimizer: Any, *arguments: Any, **named: Any) -> Any:
        with of_optimizer(optimizer):
            return super().optimizer_step(optimizer, *arguments, **named)

    def share_buffers(self) -> None:
        """Give every device the first one's buffers (BatchNorm's means), as DistributedDataParallel does."""
        assert self.model is not None
        for buffer in self.model.buffers():
            if not hasattr(buffer, "to_local"):
                distributed.broadcast(buffer, 0)

    # ---- numbers over devices -----------------------------------------------------------------------------------

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Over the devices that have different samples, unless another group is given."""
        return super().reduce(tensor, self.data_group if group is None else group, reduce_op)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        found = torch.tensor(int(decision), device=self.root_device)
        distributed.all_reduce(found)
        return int(found) == self.world_size if all else bool(found)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return super().all_gather(tensor, self.data_group if group is None else group, sync_grads)

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.sharded_checkpoints and "://" not in str(filepath) and storage_options is None:
            from metronome.training.checkpoints.sharded.write import write  # takes a second, which others need not wait

            write(checkpoint, filepath)
            return
        whole = gathered(checkpoint, keeps=self.is_global_zero)
        ParallelStrategy.save_checkpoint(self, whole, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the module and its optimizers lack, of each tensor this device's part; no more of it is read."""
        if is_sharded(checkpoint_path):
            from metronome.training.checkpoints.sharded.restore import read_like

            return read_like(checkpoint_path, self.lightning_module, self.optimizers)  # pyright: ignore
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=weights_only)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module: Any = self.lightning_module
        own = module.state_dict()
        parts = {name: part_like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(states_like(state, optimizer))


def _clip(how: Any, optimizer: Optimizer, clip_val: float) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    how([weight.grad for weight in weights if weight.grad is not None], float(clip_val))
