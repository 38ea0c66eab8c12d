"""Long lines on a terminal: broken between words, and indented below what they stand beside. Imports nothing heavy."""

import logging
import re
import shutil
import sys
from textwrap import wrap
from typing import Any

_MOST_COLUMNS = 80


class Formatter(logging.Formatter):
    """For the console of a run. What goes to a file or a pipe stays one line, for those who search in it."""

    def format(self, record: logging.LogRecord) -> str:
        return wrapped(super().format(record), sys.stdout)


def wrapped(text: str, stream: Any) -> str:
    """The text as a stream is to have it. Words are whole: a folder can be copied."""
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(part for line in text.splitlines() for part in _wrapped(line, columns)) if text else text


def _wrapped(line: str, columns: int) -> list[str]:
    """A line that the terminal has room for stays, and so does one that was made for it; others have 80 columns."""
    if len(line) <= columns:
        return [line]
    beside = re.match(r"\S.{0,14}?  +(?=\S)", line)  # `rate       `
    indent = " " * (len(beside[0]) if beside else 2)
    width = max(min(columns, _MOST_COLUMNS), len(indent) + 20)
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
