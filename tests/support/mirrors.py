"""IDX files as small as they come, and servers of them on this machine."""

import gzip
import hashlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import numpy as np


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def files_of(train: int = 20, t10k: int = 10, size: int = 4) -> dict[str, bytes]:
    """The four files of MNIST, gzipped, with so many random images of so many pixels."""
    random, files = np.random.default_rng(0), {}
    for part, count in (("train", train), ("t10k", t10k)):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(random.integers(0, 256, (count, size, size)))
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(random.integers(0, 10, count))
    return {name: gzip.compress(content, mtime=0) for name, content in files.items()}


def checksums_of(files: dict[str, bytes]) -> dict[str, str]:
    return {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in files.items()}


def put(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def held(folder: Path) -> dict[str, bytes]:
    """All that a folder holds."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Mirror(ThreadingHTTPServer):
    """Serves files, well or in one of several bad ways, and keeps the names that it is asked for."""

    daemon_threads, block_on_close = True, False

    def __init__(self, files: dict[str, bytes], way: str = "well", only: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files, self.way, self.only = files, way, only
        self.asked: list[str] = []
        self.over = Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/"


class _Answer(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore

    def do_GET(self) -> None:
        server, name = self.server, self.path.removeprefix("/files/")
        server.asked.append(name)
        way = server.way if server.only in name else "well"
        if way == "silent":
            server.over.wait(30)
            return
        if way == "404" or name not in server.files:
            self.send_error(404)
            return
        content = server.files[name]
        self.send_response(200)
        zips = way == "zips" and "gzip" in self.headers.get("Accept-Encoding", "")
        if zips:
            content = gzip.compress(content)
        self.send_header("Content-Length", str(len(content)))
        if zips or way == "declared":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if way == "another file":
            content = content[:-1] + b"?"
        elif way in ("cut", "stalls"):
            content = content[: len(content) // 2]
        if way == "trickles":
            self.trickle(content)
            return
        self.wfile.write(content)
        if way == "stalls":
            self.wfile.flush()
            server.over.wait(30)

    def trickle(self, content: bytes) -> None:
        with suppress(OSError):  # the other side hangs up
            for i in range(len(content)):
                self.wfile.write(content[i : i + 1])
                if self.server.over.wait(0.1):
                    return

    def log_message(self, format: str, *args: object) -> None:
        pass


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


Start = Callable[..., Mirror]


@contextmanager
def mirrors() -> Iterator[Start]:
    """Starts mirrors, each with the arguments of `Mirror`, and ends them."""
    started: list[Mirror] = []

    def start(*arguments: object, **options: object) -> Mirror:
        started.append(Mirror(*arguments, **options))  # pyright: ignore
        Thread(target=started[-1].serve_forever, args=(0.01,), daemon=True).start()
        return started[-1]

    try:
        yield start
    finally:
        for mirror in started:
            mirror.over.set()
            mirror.shutdown()
            mirror.server_close()
