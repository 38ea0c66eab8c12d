"""Values in nested tables, as a result or a configuration has them."""

from typing import Any


def below(content: Any, *keys: str) -> Any:
    """What lies below these keys; None where there is nothing."""
    for key in keys:
        if not isinstance(content, dict):
            return None
        content = content.get(key)
    return content


def dig(content: Any, key: str) -> Any:
    """What lies below a key with dots; None where there is nothing.

    >>> dig({"data": {"batch_size": 64}}, "data.batch_size"), dig({}, "data.batch_size")
    (64, None)
    """
    return below(content, *key.split("."))
