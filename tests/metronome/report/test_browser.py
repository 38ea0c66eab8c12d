"""The page in a real browser: nothing wider than the window, no error, and tables that sort."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import browser, programs

from metronome.report import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(programs() is None, reason="no Chromium with its driver is installed"),
]

WIDER = """
const wide = [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !element.closest(".table");
});
return [document.documentElement.scrollWidth, innerWidth, wide.map(element => element.outerHTML.slice(0, 80))];
"""
COLUMN = 'return [...document.querySelectorAll("table")].at(-1).tBodies[0].rows.length ? '
COLUMN += (
    '[...[...document.querySelectorAll("table")].at(-1).tBodies[0].rows].map(row => row.cells[1].textContent) : []'
)
IMAGE = """
const image = document.querySelector("figure img");
return [image.currentSrc === image.src, image.naturalWidth, image.getBoundingClientRect().width];
"""


@pytest.fixture
def page(make_run: Callable[..., Path], make_plan: Callable[..., Any], tmp_path: Path) -> Path:
    """Four batch sizes and two rates; names and errors too long for a phone."""
    for size in (2, 4, 8, 16):
        for rate in (0.1, 0.4, 1.6):
            points = [(k, 2 / (1 + k * rate * size), 1000.0 + k) for k in range(30)]
            status = {"status": "failed", "error": "x" * 300} if (size, rate) == (16, 1.6) else {}
            make_run(f"{'long_name_' * 8}{size}-{rate}", [f"data.batch_size={size}", f"optimizer.lr={rate}"],
                     config={"data": {"batch_size": size}, "optimizer": {"lr": rate}},
                     points={"val/loss": points, "train/loss": points},
                     the_plan=make_plan(num_samples=16, epochs=[(size, 16 // size, 16)] * 2 * size),
                     **status)  # fmt: skip
    return report(
        tmp_path / "runs", title="A title of many words, with_a_very_long_name_in_it_" + "that_never_ends_" * 4
    )


@pytest.mark.parametrize("width", [1400, 390])
def test_in_a_browser(width: int, page: Path) -> None:
    with browser(width) as opened:
        opened.open(page)
        scrolled, window, wide = opened.run(WIDER)
        assert (window, wide) == (width, [])
        assert scrolled <= width, "no scrolling sideways, but within a table"
        is_wide, pixels, shown = opened.run(IMAGE)
        assert is_wide == (width == 1400), "a phone has figures drawn for it"
        assert pixels == (1380 if is_wide else 720)
        assert shown <= width

        # Every run: the second column, by a click on its heading, up and down.
        before = opened.run(COLUMN)
        assert len(before) == 12
        last = "document.querySelectorAll('table')[document.querySelectorAll('table').length - 1]"
        opened.run(f"{last}.id = 'last'; {last}.scrollIntoView()")
        for upwards in (True, False):
            opened.click("#last th:nth-child(2) button")
            after = opened.run(COLUMN)
            assert after == sorted(before, key=float, reverse=not upwards)
            assert opened.run("return document.querySelector('#last th:nth-child(2)').ariaSort") == (
                "ascending" if upwards else "descending"
            )

        # The first column stays in sight when the table is scrolled to its right end.
        opened.run("document.querySelector('#last').parentElement.scrollLeft = 10000")
        left, outer = opened.run(
            "const table = document.querySelector('#last');"
            "return [table.rows[1].cells[0], table.parentElement].map(one => one.getBoundingClientRect().left)"
        )
        assert abs(left - outer) <= 2
        assert opened.complaints() == []
