"""Told to stop by SIGTERM, all devices of a run stop after the same step."""

from typing import Any

from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector


class SignalConnector(_SignalConnector):
    """Lightning's signal connector, without a collective inside the signal handler.

    Lightning's handler broadcasts wherever the signal happens to meet the process, which pairs up with whatever
    collective the other devices are in, and hangs. Here the handler only takes a note; before each step the devices
    ask each other for it.
    """

    told_to_stop = False

    def register_signal_handlers(self) -> None:
        self.told_to_stop = False
        super().register_signal_handlers()

    def _sigterm_notifier_fn(self, signum: Any, _: Any) -> None:
        self.told_to_stop = True
        # On several devices no one may leave alone.
        self.received_sigterm = self.trainer.world_size == 1
