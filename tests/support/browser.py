"""A real browser without a window, driven over chromedriver's WebDriver protocol with the standard library."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = [("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)]
# Nothing of it asks the network; no sandbox, since in a container it is root.
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
          "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


def programs() -> list[str] | None:
    """The paths of a Chromium and its driver; None where one is missing."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in PROGRAMS]
    return None if None in found else [str(path) for path in found]


class Browser:
    """A page in a window of some width, in pixels; `height` is that of what is seen of it at once."""

    def __init__(self, address: str, chromium: str, folder: str, width: int, height: int, ratio: float) -> None:
        self.address = address
        metrics = {"width": width, "height": height, "pixelRatio": ratio}
        options = {
            "binary": chromium,
            "args": [*_FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"],
            "mobileEmulation": {"deviceMetrics": metrics},
        }
        wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options}
        made = self._ask("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{made['sessionId']}"

    def _ask(self, path: str, content: dict[str, Any] | None = None, method: str = "POST") -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]

    def open(self, file: Path) -> None:
        self._ask("/url", {"url": file.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        """A click where the element is, as of a person."""
        found = self._ask("/element", {"using": "css selector", "value": selector})
        self._ask(f"/element/{next(iter(found.values()))}/click", {})

    def complaints(self) -> list[str]:
        """What stands in the console."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._ask("/se/log", {"type": "browser"})]

    def picture(self, file: Path, whole: bool = True) -> None:
        """The page as a PNG, the whole of it or what is seen."""
        asked = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": whole}}
        file.write_bytes(base64.b64decode(self._ask("/goog/cdp/execute", asked)["data"]))

    def close(self) -> None:
        self._ask("", method="DELETE")


@contextmanager
def browser(width: int, height: int = 900, ratio: float = 1.0) -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end."""
    found = programs()
    assert found is not None
    chromium, driver = found
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as served,
    ):
        try:
            assert served.stdout is not None
            port = next(
                port for line in served.stdout if (port := re.search(r"successfully on port (\d+)", line)) is not None
            )
            page = Browser(f"http://127.0.0.1:{port[1]}", chromium, folder, width, height, ratio)
            try:
                yield page
            finally:
                page.close()
        finally:
            served.terminate()
