"""A real browser: headless Chromium, driven through its debugging pipe, with nothing between."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

# What a browser asks of the network by itself is no page's doing.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass
class Page:
    """An open page, and all that it complained of and asked for."""

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, self, **params)

    def evaluate(self, expression: str) -> Any:
        outcome = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in outcome, outcome
        return outcome["result"].get("value")

    def look(self, width: int, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def heard(self, message: dict[str, Any]) -> None:
        params = message["params"]
        match message["method"]:
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(params["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


class Browser:
    """Chromium, with one page at a time."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._from = os.fdopen(to, "wb"), os.fdopen(answers, "rb")
        self._number, self._rest = 0, b""

    def open(self, url: str) -> Page:
        target = self.call("Target.createTarget", None, url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", None, targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=url)
        while page.evaluate("document.readyState") != "complete" or page.evaluate("location.href") == "about:blank":
            pass
        return page

    def call(self, method: str, page: Page | None, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if page is not None:
            message["sessionId"] = page.session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._read()).get("id") != self._number:
            if page is not None and answer.get("sessionId") == page.session:
                page.heard(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = self._from.read1(1 << 20)  # type: ignore[attr-defined]
            assert chunk, "the browser has gone away"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        for stream in (self._to, self._from):
            stream.close()


@contextlib.contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """Run Chromium with a profile of its own."""
    assert CHROMIUM is not None
    (inward, to), (answers, outward) = os.pipe(), os.pipe()
    # The pipe's ends must be 3 and 4 in the browser; bash puts them there, and they must not stand there before.
    theirs_in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (inward, outward))
    os.close(inward)
    os.close(outward)
    script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
    command = ["bash", "-c", script, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(to, answers)
    try:
        yield browser
        browser.call("Browser.close", None)
    finally:
        browser.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
