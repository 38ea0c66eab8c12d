"""The only place that imports Lightning's private names.

What is relied on, with signatures and digests of what is overridden, stands in a contract that a test compares with the
installed Lightning (tests/metronome/training/test_lightning_contract.py): when a release changes one, it says where to
look.
"""

from typing import Any

import lightning as L
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop as EvaluationLoopBase
from lightning.pytorch.loops.fetchers import _DataFetcher as DataFetcher
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as DataLoaderIterDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop as FitLoopBase
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization as AutomaticOptimizationBase
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

__all__ = [
    "AutomaticOptimizationBase", "CheckpointConnectorBase", "Closure", "ClosureResult", "DataConnectorBase",
    "DataFetcher", "DataLoaderIterDataFetcher", "EvaluationLoopBase", "FitLoopBase", "LoggedMetadata", "LoggedSync",
    "ManualOptimizationBase", "ResultCollectionBase", "ResultMetricBase", "SignalConnectorBase",
    "TrainingEpochLoopBase", "call_module_hook", "call_strategy_hook", "checkpoint_connector",
    "goes_on_from_a_checkpoint", "logger_connector", "processes_of", "put_connectors", "without_gradient_sync",
]  # fmt: skip

# ---- hooks ------------------------------------------------------------------------------------------------

call_module_hook = call._call_lightning_module_hook
call_strategy_hook = call._call_strategy_hook

# ---- parts of the Trainer ---------------------------------------------------------------------------------


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
