"""The page on the usual mistakes, run: each of its numbers comes out."""

import doctest
import logging
import re
import warnings
from collections.abc import Iterator

import pytest
import torch
from commands import PROJECT

PAGE = PROJECT / "src/project/mistakes/README.md"


@pytest.fixture
def put_back() -> Iterator[None]:
    """What the page sets for the whole process."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels, dtype = [logger.level for logger in loggers], torch.get_default_dtype()
    with warnings.catch_warnings():
        yield
    torch.set_default_dtype(dtype)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_each_number_comes_out(put_back: None, capsys: pytest.CaptureFixture) -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)
    assert failed == 0, capsys.readouterr().out
    assert tried >= 40  # a page without examples would pass too


def test_every_example_is_followed_by_an_empty_line() -> None:
    """Else doctest takes the end of the block for a part of what is expected."""
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        assert block.endswith("\n\n")


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
