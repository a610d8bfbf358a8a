"""Chromium without a window, spoken to over its DevTools protocol on a pipe."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One page; collects what it complains of.

    Attributes:
        complaints: console errors and warnings, uncaught exceptions, and requests of any kind.
    """

    def __init__(self, to_browser, from_browser):
        self._to, self._from, self._buffer = to_browser, from_browser, b""
        self._number, self._session = 0, None
        self.complaints = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._buffer:
            read = os.read(self._from, 1 << 16)
            assert read, "the browser has ended"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message):
        method, content = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning"):
            self.complaints.append(str([a.get("value") for a in content["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(content["exceptionDetails"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.complaints.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = content["request"]["url"]
            if not url.startswith(("file://", "data:", "about:")):
                self.complaints.append(f"request of {url}")

    def open(self, path, width=1280, height=900, scheme="light"):
        """Opens a file."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=f"file://{path}")
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression):
        """Returns the value of a JavaScript expression, a promise's when it is kept."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition, seconds=60):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def press(self, key, code=0, text=""):
        """Presses and releases a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = "keyDown" if text else "rawKeyDown"
        self.send("Input.dispatchKeyEvent", type=down, text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)


@contextlib.contextmanager
def chromium():
    """Yields a page of a fresh browser."""
    to_child, to_browser = os.pipe()
    from_browser, from_child = os.pipe()
    # Its helpers may still write there when it has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            PROGRAM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ]

        def place_pipes():
            # The browser reads from 3 and writes to 4.
            read, write = os.dup(to_child), os.dup(from_child)
            os.dup2(read, 3)
            os.dup2(write, 4)

        process = subprocess.Popen(
            command,
            preexec_fn=place_pipes,
            pass_fds=(3, 4, to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        try:
            yield Page(to_browser, from_browser)
        finally:
            process.terminate()
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
