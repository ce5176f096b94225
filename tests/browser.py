"""A headless Chromium for tests, driven over chromedriver's WebDriver protocol (W3C) with the standard library.

    with Browser() as browser:
        browser.open("http://localhost:6006")
        browser.wait_for("document.readyState === 'complete'", 20, "the page to load")
        assert "accuracy" in browser.visible_text()

The browser resolves no host but this machine: a page that would load something from elsewhere fails here as it would
without a network.
"""

import base64
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

# As Debian, Ubuntu and the runners of GitHub's CI call them.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
CHROMEDRIVER = shutil.which("chromedriver") or ""
_STARTED = re.compile(r"started successfully on port (\d+)")

# Components hide their content in shadow roots, which innerText skips; what a slot shows stands elsewhere in the tree.
_VISIBLE_TEXT = """
const pieces = [];
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE) {
    const text = node.textContent.replace(/\\s+/g, ' ').trim();
    if (text && (!node.parentElement || getComputedStyle(node.parentElement).visibility === 'visible')) {
      pieces.push(text);
    }
    return;
  }
  if (node.nodeType === Node.ELEMENT_NODE) {
    if (['SCRIPT', 'STYLE', 'NOSCRIPT', 'TEMPLATE'].includes(node.tagName)) return;
    if (getComputedStyle(node).display !== 'contents' && !node.checkVisibility()) return;
    if (node.tagName === 'IFRAME') {
      if (node.contentDocument && node.contentDocument.body) walk(node.contentDocument.body);
      return;
    }
  }
  if (node.tagName === 'DETAILS' && !node.open) return walk(node.querySelector('summary'));
  const slotted = node.tagName === 'SLOT' ? node.assignedNodes({flatten: true}) : [];
  const children = slotted.length ? slotted : (node.shadowRoot || node).childNodes;
  children.forEach(walk);
};
walk(document.body);
return pieces.join('\\n');
"""


class BrowserError(RuntimeError):
    """The browser, its driver or a script in the page failed."""


def available() -> bool:
    """Whether this machine has both programs."""
    return bool(CHROMIUM and CHROMEDRIVER)


class Browser:
    """One Chromium with one tab; ends with the ``with`` block, whatever happens in it.

    Args:
        width: of the window, in CSS pixels.
        height: of the window, in CSS pixels.
        startup_seconds: how long driver and browser may each take to start.
    """

    def __init__(self, width=1280, height=900, startup_seconds=60):
        self.size, self.startup_seconds = (width, height), startup_seconds
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine, always
        self._session = ""

    def __enter__(self):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._driver = subprocess.Popen(
            [CHROMEDRIVER, "--port=0"],  # the driver chooses a free port and says which
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a group of its own, so that no Chromium outlives it
        )
        self._said: list[str] = []
        self._port: queue.Queue[int] = queue.Queue()
        self._reader = threading.Thread(target=self._read_driver, daemon=True)
        self._reader.start()
        try:
            try:
                port = self._port.get(timeout=self.startup_seconds)
            except queue.Empty:
                raise BrowserError(f"{CHROMEDRIVER} did not start:\n" + "".join(self._said)) from None
            self._root = f"http://127.0.0.1:{port}"
            flags = [
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--no-proxy-server", "--hide-scrollbars", "--force-device-scale-factor=1"),
                f"--window-size={self.size[0]},{self.size[1]}",
                f"--user-data-dir={self._profile}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
            ]
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": CHROMIUM, "args": flags},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            body = {"capabilities": {"alwaysMatch": wanted}}
            self._session = f"/session/{self._call('POST', '/session', body, self.startup_seconds)['sessionId']}"
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """End the browser and its driver, and remove its profile."""
        if self._session:
            with contextlib.suppress(BrowserError):  # it is gone already, or will be with the group below
                self._call("DELETE", self._session)
            self._session = ""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait(timeout=30)
        self._reader.join(timeout=30)
        self._driver.stdout.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url):
        """Load a page and wait for its load event."""
        self._call("POST", f"{self._session}/url", {"url": url}, 120)

    def evaluate(self, js, *arguments):
        """Run a script in the page, ``arguments[0]`` and so on at hand; what it returns comes back as plain values.

        Raises:
            BrowserError: if it throws.
        """
        return self._call("POST", f"{self._session}/execute/sync", {"script": js, "args": list(arguments)})

    def wait_for(self, js_expression, seconds, what):
        """Wait until an expression is truthy; one that throws, as while a page is building, is not so yet.

        Returns:
            Its value.

        Raises:
            AssertionError: after so many seconds, naming what was awaited, and what the page shows and logged instead.
        """
        return self._until(lambda: self.evaluate(f"return ({js_expression});"), seconds, what)

    def wait_for_text(self, text, seconds):
        """Wait until the page shows a text, wherever; :meth:`visible_text` tells what counts as shown.

        Raises:
            AssertionError: as :meth:`wait_for` does.
        """
        self._until(lambda: text in self.visible_text(), seconds, f"the text {text!r}")

    def _until(self, probe, seconds, what):
        deadline, last = time.monotonic() + seconds, None
        while True:
            try:
                last = probe()
            except BrowserError as error:
                last = error
            else:
                if last:
                    return last
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        raise AssertionError(
            f"waited {seconds} s for {what}; the last value was {last!r}\n"
            f"the page shows: {self.visible_text()[:2000]}\nits console: {self.console()[:20]}"
        )

    def visible_text(self):
        """All text that is shown, a line for each piece, shadow roots and frames of the same origin included."""
        return self.evaluate(_VISIBLE_TEXT)

    def console(self, levels=("SEVERE",)):
        """What the page's console has logged since the last call, at these levels: SEVERE (errors), WARNING, INFO."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in levels]

    def click(self, x, y):
        """Click with the mouse at a point of the viewport, in CSS pixels."""
        self._mouse(x, y, "pointerDown", "pointerUp")

    def hover(self, x, y):
        """Move the mouse to a point of the viewport, in CSS pixels."""
        self._mouse(x, y)

    def screenshot(self, path, whole_page=True):
        """Save a PNG of the whole page, or of what the window shows of it."""
        options = {"format": "png"}
        if whole_page:
            size = self._cdp("Page.getLayoutMetrics", {})["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            options |= {"captureBeyondViewport": True, "clip": clip}
        Path(path).write_bytes(base64.b64decode(self._cdp("Page.captureScreenshot", options)["data"]))

    def _mouse(self, x, y, *buttons):
        actions = [{"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)}]
        actions += [{"type": kind, "button": 0} for kind in buttons]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self._call("POST", f"{self._session}/actions", {"actions": [pointer]})

    def _cdp(self, command, parameters):
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, method, path, body=None, seconds=60):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._root + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                text = json.loads(text)["value"]["message"].split("\nStacktrace")[0]
            raise BrowserError(f"{method} {path}: {text}") from None
        except OSError as error:  # refused, reset, or no answer in time
            raise BrowserError(f"{method} {path}: {error}; the driver said:\n{''.join(self._said[-20:])}") from error

    def _read_driver(self):
        # To its end: a driver whose pipe is full would stand still.
        for line in self._driver.stdout:
            self._said.append(line)
            if started := _STARTED.search(line):
                self._port.put(int(started.group(1)))
