"""Cut a count into contiguous pieces whose sizes differ by one at most."""


def share_size(count: int, parts: int, index: int) -> int:
    """Size of piece `index` of `even_split(count, parts)`, without making the list."""
    assert 0 <= index < parts, (index, parts)
    return count // parts + (index < count % parts)


def even_split(count: int, parts: int) -> list[int]:
    """Sizes of `parts` contiguous pieces of `count`, the larger ones first, as `torch.tensor_split` cuts.

    >>> even_split(10, 4)
    [3, 3, 2, 2]
    """
    return [share_size(count, parts, index) for index in range(parts)]
