"""A real browser for tests: headless Chromium, spoken to over a pipe in its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/; messages are JSON and end with a zero byte.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PATIENCE_S = 200.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "on Debian: apt-get install --no-install-recommends chromium"

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-breakpad"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1000,900"),
)


class BrowserError(Exception):
    """The browser is not there, did not start, did not answer, or refused."""


class Browser:
    """One page of a Chromium; ``events`` are all that it told, in their order."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, of: int) -> None:
        self._process = process
        self._to = to
        self._of = of
        self._ids = itertools.count(1)
        self._session: str | None = None
        self._read = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(of, selectors.EVENT_READ)
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Show a file; returns when it has been loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def look(self, colours: str = "light", media: str = "screen") -> None:
        """Show it in light or dark, on a screen or as printed."""
        features = [{"name": "prefers-color-scheme", "value": colours}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What was written to the console and thrown, and what the browser had to object to."""
        told = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in told]

    def requests(self) -> list[str]:
        """The address of everything that the page asked for, itself included."""
        sent = (e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self._next(deadline)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise BrowserError(f"the browser did not answer within {PATIENCE_S:.0f} s")
            data = os.read(self._of, 1 << 16)
            if not data:
                status = self._process.wait(PATIENCE_S)
                raise BrowserError(f"the browser ended with status {status}")
            self._read += data
        text, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and end it with everything that it started.

    Raises BrowserError if none is installed or it does not start.
    """
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise BrowserError(f"none of {', '.join(NAMES)} is on the PATH; {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="tunefarm-browser-") as folder:
        its_in, to = os.pipe()
        of, its_out = os.pipe()
        errors = Path(folder, "stderr")
        command = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'  # the two that it wants
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                ["bash", "-c", command, path, *_FLAGS, f"--user-data-dir={folder}/profile"],
                env={**os.environ, "HOME": folder},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(its_in, its_out),
                start_new_session=True,
            )
        os.close(its_in)
        os.close(its_out)
        try:
            try:
                started = Browser(process, to, of)
            except (BrowserError, OSError) as error:
                said = errors.read_text(errors="replace")[-2000:]
                raise BrowserError(f"{path} could not be started: {error}\n{said}") from error
            yield started
        finally:
            os.close(to)
            os.close(of)
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the browser and its helpers, and wait for them: they write into their folder."""
    helpers = []
    with contextlib.suppress(psutil.NoSuchProcess):
        helpers = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for helper in helpers:
        with contextlib.suppress(psutil.NoSuchProcess):
            helper.kill()
    psutil.wait_procs(helpers, PATIENCE_S)
