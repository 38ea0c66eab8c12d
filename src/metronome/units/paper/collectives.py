"""How long devices take to bring numbers together, over links of a stated speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

BUCKET = 25 * 2**20  # bytes that DDP sends at a time
BACKWARD = 2 / 3  # of the time of both passes: twice the forward's


@dataclass(frozen=True)
class Links:
    """Attributes:
    bandwidth: bytes a second that each device sends, and receives.
    latency: seconds that a message takes from one device to the next.
    tree: whether sums go by two trees over the devices and not around the ring: Sanders, Speck & Traeff (2009).
    """

    bandwidth: float
    latency: float
    tree: bool = False


def all_reduce(count: float, devices: int, links: Links, calls: int = 1) -> float:
    """Seconds to sum `count` bytes over devices: around the ring 2 (D - 1) / D of them pass each link, in 2 (D - 1)
    messages one after the other.

    >>> round(all_reduce(1e9, 8, Links(1e9, 0.0)), 3), round(all_reduce(0, 1024, Links(1e9, 5e-6)), 5)
    (1.75, 0.01023)
    """
    if devices == 1:
        return 0.0
    if links.tree:
        return calls * 2 * ceil(log2(devices)) * links.latency + 2 * count / links.bandwidth
    return calls * 2 * (devices - 1) * links.latency + 2 * (devices - 1) / devices * count / links.bandwidth


def all_gather(count: float, devices: int, links: Links, calls: int = 1) -> float:
    """Seconds to gather `count` bytes of which each device has a share, or to sum them so that each has a share: half
    of an all-reduce.

    >>> round(all_gather(1e9, 8, Links(1e9, 0.0)), 3)
    0.875
    """
    return calls * (devices - 1) * links.latency + (devices - 1) / devices * count / links.bandwidth


@dataclass(frozen=True)
class Exchange:
    """What a step sends.

    Attributes:
        seconds: of sending.
        waited: those in which nothing is computed.
        sent: bytes that each device sends.
        formula: where the seconds come from, in words.
    """

    seconds: float
    waited: float
    sent: float
    formula: str


def of_gradients(count: int, devices: int, links: Links, micro_batch: float, overlap: bool) -> Exchange:
    """DDP: one sum of the gradients a step, in buckets, while the last micro-batch goes backward.

    Args:
        count: bytes of the gradients.
        micro_batch: seconds of both passes of one.
        overlap: whether sending goes on beside computing.
    """
    buckets = max(1, ceil(count / BUCKET))
    seconds = all_reduce(count, devices, links, buckets)
    waited = seconds
    if overlap and seconds:
        # The first bucket is ready after its part of the backward pass, and the last one when it is over.
        beside = BACKWARD * micro_batch * (1 - 1 / buckets)
        waited = max(seconds - beside, seconds / buckets)
    parts = f"{buckets:,} bucket{'s' if buckets > 1 else ''}"
    words = f"2 log2(D) latencies + 2 bytes / bandwidth; {parts}"
    if not links.tree:
        words = f"2(D-1) latencies + 2(D-1)/D bytes / bandwidth; {parts}"
    return Exchange(seconds, waited, 2 * (devices - 1) / devices * count, words)


def of_shards(
    weights: int,
    gradients: int,
    devices: int,
    links: Links,
    micro_batch: float,
    overlap: bool,
    accumulate: int,
    units: int,
) -> Exchange:
    """FSDP2: in each micro-batch all weights are gathered twice, for both passes; in the last one gradients are summed,
    a share to each device. A unit is gathered while the one before computes.

    Args:
        weights, gradients: bytes of all of them.
        accumulate: micro-batches of a step.
        units: parts of the network that are gathered one by one.
    """
    gather, scatter = (all_gather(count, devices, links, units) for count in (weights, gradients))
    forward, backward = (1 - BACKWARD) * micro_batch, BACKWARD * micro_batch
    waited = accumulate * 2 * gather + scatter
    if overlap and devices > 1:
        usual = max(gather - forward, gather / units) + max(gather - backward, 0.0)
        last = max(gather - forward, gather / units) + max(gather + scatter - backward, scatter / units)
        waited = (accumulate - 1) * usual + last
    sent = (devices - 1) / devices * (accumulate * 2 * weights + gradients)
    words = f"(D-1)/D ({2 * accumulate} x weights + gradients) / bandwidth; {units:,} unit{'s' if units > 1 else ''}"
    return Exchange(accumulate * 2 * gather + scatter, waited, sent, words)


def of_layers(outputs: Sequence[int], devices: int, links: Links, accumulate: int) -> Exchange:
    """Tensor parallel layers: in each unit two sums of its output forward and two backward, which are waited for:
    Shoeybi et al. (2019), arXiv 1909.08053.

    Args:
        outputs: bytes that each unit hands on, of a micro-batch.
        devices: that share the layers out.
    """
    seconds = sum(4 * accumulate * all_reduce(count, devices, links) for count in outputs)
    sent = 2 * (devices - 1) / devices * 4 * accumulate * sum(outputs)
    return Exchange(seconds, seconds, sent, f"4 sums of its output a unit and micro-batch; {len(outputs):,} units")
