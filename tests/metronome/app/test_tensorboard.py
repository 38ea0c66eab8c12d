"""TensorBoard, started on a run, shows its curves and its plan: asked over HTTP as the page does."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote

import pytest
from commands import Commands

pytestmark = pytest.mark.usefixtures("commands")


@pytest.fixture
def board(commands: Commands) -> Iterator[tuple[str, str]]:
    """The address of a TensorBoard on a finished run, and the run's name there."""
    done = commands("train", "+experiment=digits", "trainer=cpu", "trainer.max_epochs=2", "model=mlp")
    assert done.code == 0, done.err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--logdir",
        str(commands.folder / "runs"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--load_fast=false",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}", str(done.run.relative_to(commands.folder / "runs"))
    finally:
        process.kill()
        process.wait()


def ask(address: str, path: str) -> list | dict:
    with urllib.request.urlopen(f"{address}/data/plugin/{path}", timeout=20) as answer:
        return json.load(answer)


def test_curves_and_plan(board: tuple[str, str]) -> None:
    address, run = board
    wanted = {"train/loss", "val/loss", "val/acc", "watch/lr"}
    tags: set[str] = set()
    for _ in range(120):  # it reads the files in the background
        with suppress(OSError):
            tags = set(ask(address, "scalars/tags").get(run, {}))  # pyright: ignore
        if wanted <= tags:
            break
        time.sleep(0.5)
    assert wanted <= tags
    losses = ask(address, f"scalars/scalars?run={quote(run, safe='')}&tag={quote('train/loss', safe='')}")
    assert [point[1] for point in losses] == [4, 9, 14, 19, 24, 29, 34, 39]
    texts = ask(address, f"text/text?run={quote(run, safe='')}&tag={quote('plan/text_summary', safe='')}")
    assert "1,257" in str(texts)
