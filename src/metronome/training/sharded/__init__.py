"""One model spread over several devices: each keeps a part of every weight, of its gradient and of its momenta."""

from metronome.training.sharded.precision import with_precision
from metronome.training.sharded.strategy import ShardedStrategy

__all__ = ["ShardedStrategy", "with_precision"]
