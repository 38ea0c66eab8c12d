"""Pieces of HTML, with all text in them escaped."""

from collections.abc import Iterable
from html import escape


def section(name: str, content: str) -> str:
    return f"<section>\n<h2>{escaped(name)}</h2>\n{content}\n</section>\n"


def bullets(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in lines)}</ul>"


def codes(values: Iterable[str]) -> str:
    return " ".join(f"<code>{escaped(value)}</code>" for value in values)


def escaped(text: object) -> str:
    return escape(str(text), quote=True)
