"""A report's page, read."""

from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """The tables of a page, cell by cell, and all addresses that it asks for."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text()
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.cell: str | None = None
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value)[:30] for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "table":
            assert ("class", "sortable") in attrs
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            self.tables[-1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell += data

    def column(self, table: int, name: str) -> list[str]:
        head, *rows = self.tables[table]
        return [row[head.index(name)] for row in rows]
