"""One model spread over several devices: each keeps a part of every weight, of its gradient and of its momenta."""

from metronome.training.sharded.strategy import ShardedStrategy, with_precision

__all__ = ["ShardedStrategy", "with_precision"]
