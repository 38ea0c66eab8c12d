"""The only place that imports Lightning's private names.

What is relied on, with signatures and digests of what is overridden, stands in a contract that a test compares with the
installed Lightning (tests/metronome/training/test_lightning_contract.py): when a release changes one, it says where to
look.
"""

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop as EvaluationLoopBase
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as DataLoaderIterDataFetcher
from lightning.pytorch.loops.fetchers import _PrefetchDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop as FitLoopBase
from lightning.pytorch.loops.optimization.manual import _ManualOptimization as ManualOptimizationBase
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoopBase
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior as without_gradient_sync
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector as CheckpointConnectorBase
from lightning.pytorch.trainer.connectors.data_connector import _DataConnector as DataConnectorBase
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata as LoggedMetadata
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection as ResultCollectionBase
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric as ResultMetricBase
from lightning.pytorch.trainer.connectors.logger_connector.result import _Sync as LoggedSync
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector as SignalConnectorBase
from lightning.pytorch.utilities.argparse import _defaults_from_env_vars as defaults_from_environment
from lightning.pytorch.utilities.exceptions import _TunerExitException as EndOfFit
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.inheritance import get_all_subclasses
from torch.utils.data import BatchSampler, DataLoader

__all__ = [
    "CheckpointConnectorBase", "DataConnectorBase", "DataFetcher", "DataLoaderIterDataFetcher", "EndOfFit",
    "EvaluationLoopBase", "FitLoopBase", "LoggedMetadata", "LoggedSync", "ManualOptimizationBase",
    "ResultCollectionBase", "ResultMetricBase", "SignalConnectorBase", "TrainingEpochLoopBase",
    "before_batch_transfer", "call_callback_hooks", "call_module_hook", "call_strategy_hook",
    "checkpoint_connector", "defaults_from_environment", "give_loaders_back", "goes_on_from_a_checkpoint",
    "init_trainer", "is_averaging_models", "iterator_of", "lightning_optimizer", "logger_connector", "one_loader",
    "processes_of", "put_connectors", "transfers_batches", "without_gradient_sync",
]  # fmt: skip

# ---- hooks ------------------------------------------------------------------------------------------------

call_callback_hooks = call._call_callback_hooks
call_module_hook = call._call_lightning_module_hook
call_strategy_hook = call._call_strategy_hook

# ---- parts of the Trainer ---------------------------------------------------------------------------------


def init_trainer(trainer: L.Trainer, flags: dict[str, Any]) -> None:
    """Lightning's `__init__`, which would look for a derived class's flags in the environment, and take them for its
    own."""
    L.Trainer.__init__.__wrapped__(trainer, **flags)  # pyright: ignore


def logger_connector(trainer: L.Trainer) -> Any:
    """What collects logged values and hands them to the loggers."""
    return trainer._logger_connector


def checkpoint_connector(trainer: L.Trainer) -> Any:
    """What makes a checkpoint's contents, and restores from them."""
    return trainer._checkpoint_connector


def put_connectors(
    trainer: L.Trainer, checkpoint: CheckpointConnectorBase, data: DataConnectorBase, signal: SignalConnectorBase
) -> None:
    """Let a Trainer use these in place of its own."""
    trainer._checkpoint_connector, trainer._data_connector, trainer._signal_connector = checkpoint, data, signal


def give_loaders_back() -> None:
    """While Lightning asks a hook for a loader it has methods of DataLoader replaced, and leaves them so where the hook
    fails: in a notebook no loader made after such a mistake could be taken."""
    for base in (DataLoader, BatchSampler):
        for kind in get_all_subclasses(base) | {base}:
            for name in ("__setattr__", "__delattr__", "__init__"):
                if (own := f"__old{name}") in vars(kind):
                    setattr(kind, name, getattr(kind, own))
                    delattr(kind, own)


def lightning_optimizer(trainer: L.Trainer) -> Any:
    """The optimizer as a module's own `optimizer_step` is given it."""
    return trainer.strategy._lightning_optimizers[0]


def is_averaging_models(strategy: Any) -> bool:
    """Whether a strategy averages the weights of its devices after an update."""
    return getattr(strategy, "_model_averager", None) is not None


def has_static_graph(strategy: Any) -> bool:
    """Whether DistributedDataParallel is told that every step is the same."""
    return bool(ddp_options(strategy).get("static_graph"))


def ddp_options(strategy: Any) -> dict[str, Any]:
    """What DistributedDataParallel is given beside the module."""
    return getattr(strategy, "_ddp_kwargs", {})


def transfers_batches(trainer: L.Trainer) -> bool:
    """Whether the module or the data module moves batches to the device, or changes them there, in a way of its own."""
    return any(
        _batch_hook(trainer, name) is not None for name in ("transfer_batch_to_device", "on_after_batch_transfer")
    )


def before_batch_transfer(trainer: L.Trainer) -> Callable[[Any, int], Any] | None:
    """What the module or the data module does to a batch before it is moved; None if nothing."""
    return _batch_hook(trainer, "on_before_batch_transfer")


def _batch_hook(trainer: L.Trainer, name: str) -> Callable[..., Any] | None:
    selector = trainer._data_connector._datahook_selector
    owner = trainer.lightning_module if selector is None else selector.get_instance(name)
    return getattr(owner, name) if is_overridden(name, owner) else None


def one_loader(fetcher: DataFetcher) -> Any:
    """The training loader, where it was given by itself and has a length; None where Lightning must look ahead, or puts
    batches into a dict or list as the loaders were."""
    loader = fetcher.combined_loader.iterables
    is_plain = fetcher.length is not None and type(fetcher) is _PrefetchDataFetcher
    return loader if is_plain and isinstance(loader, DataLoader) else None


def iterator_of(fetcher: DataFetcher) -> Iterator[Any]:
    """The iterator that the fetcher has begun of its one loader."""
    return fetcher.combined_loader._iterator.iterators[0]  # pyright: ignore


def goes_on_from_a_checkpoint(trainer: L.Trainer) -> bool:
    """Whether the training's loops were restored from a checkpoint."""
    return trainer.fit_loop._loaded_from_state_dict


def processes_of(trainer: L.Trainer) -> int | None:
    """How many processes the Trainer's strategy would start by running the command line again; 0 if it starts none, or
    another program does; None if it forks or spawns them."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        return None
    if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.cluster_environment.creates_processes_externally:
        return 0
    return launcher.num_processes
