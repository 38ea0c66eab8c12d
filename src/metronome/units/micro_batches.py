"""How many micro-batches a step is made of: as many on every device."""

from metronome.units.split import share_size


def micro_batches_of(batch: int, whole: int, devices: int, accumulate_grad_batches: int) -> int:
    """Micro-batches of each device in a step of `batch` samples, where a whole batch has `whole`.

    As many as asked for; in a smaller last batch fewer, where some would hold one sample alone and those of a whole
    batch do not: a layer that looks across samples could do nothing with it. Never so few that one is larger than in a
    whole batch, and never more than the largest share has samples; a device with fewer runs one that does not count.
    """
    largest, smallest = share_size(batch, devices, 0), share_size(batch, devices, devices - 1)
    most = max(1, min(accumulate_grad_batches, largest))
    if batch >= whole:
        return most
    fewest = -(-largest // micro_batch_size(whole, devices, accumulate_grad_batches))
    return min(most, max(fewest, smallest // 2, 1))


def micro_batch_size(batch: int, devices: int, accumulate_grad_batches: int) -> int:
    """Samples in the largest micro-batch of a batch."""
    share = share_size(batch, devices, 0)
    return share_size(share, max(1, min(accumulate_grad_batches, share)), 0)
