"""A storage in memory (fsspec) whose n-th operation fails: nothing is done, or half of it is, with an error or without.

    Faulty.fail_at(7, how="half")   # `faulty://bucket/project`

Nothing of it is counted while it reads what a test looks at: `Faulty.fail_at(None)`.
"""

from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

WAYS = ("half", "silent", "error")


class Faulty(MemoryFileSystem):
    """`error`: the operation is not done, and says so; `half`: half of the bytes are there, and it says so; `silent`:
    half of them, and it says nothing. `stays`: all operations after that one fail too."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}  # pyright: ignore
    pseudo_dirs: ClassVar[list[str]] = [""]  # pyright: ignore
    at: ClassVar[int | None] = None
    how: ClassVar[str] = "error"
    stays: ClassVar[bool] = False
    done: ClassVar[int] = 0
    calls: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("faulty://"))

    @classmethod
    def fail_at(cls, at: int | None, how: str = "error", stays: bool = False) -> None:
        cls.at, cls.how, cls.stays, cls.done = at, how, stays, 0

    @classmethod
    def empty(cls) -> None:
        cls.fail_at(None)
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.calls.clear()

    @classmethod
    def _fails(cls, name: str) -> bool:
        cls.calls.append(name)
        if cls.at is None:
            return False
        cls.done += 1
        return cls.done == cls.at or (cls.stays and cls.done > cls.at)

    def _or_fail(self, name: str) -> None:
        if self._fails(name):
            raise OSError(f"the storage fails at {name}")

    def pipe_file(self, path: Any, value: Any, mode: str = "overwrite", **options: Any) -> Any:
        if not self._fails("pipe_file"):
            return super().pipe_file(path, value, mode, **options)
        self._half(path, value)

    def put_file(self, lpath: Any, rpath: Any, *arguments: Any, **options: Any) -> Any:
        data = Path(lpath).read_bytes()
        if not self._fails("put_file"):
            return super().pipe_file(rpath, data)
        self._half(rpath, data)

    def _half(self, path: Any, data: bytes) -> None:
        if self.how != "error":
            super().pipe_file(path, data[: len(data) // 2])
        if self.how != "silent":
            raise OSError("the storage fails while it is written to")

    def cat_file(self, path: Any, *arguments: Any, **options: Any) -> Any:
        self._or_fail("cat_file")
        return super().cat_file(path, *arguments, **options)

    def info(self, path: Any, **options: Any) -> Any:
        self._or_fail("info")
        return super().info(path, **options)

    def find(self, path: Any, *arguments: Any, **options: Any) -> Any:
        self._or_fail("find")
        return super().find(path, *arguments, **options)

    def rm_file(self, path: Any) -> Any:
        self._or_fail("rm_file")
        return self.store.pop(self._strip_protocol(path), None)


fsspec.register_implementation("faulty", Faulty, clobber=True)
