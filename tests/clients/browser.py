"""Chromium without a window, over its DevTools protocol: what a page shows, says and asks for."""

import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import urllib.request

import pytest
import websocket

from conftest import eventually

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--remote-debugging-port=0", "--remote-allow-origins=*"]


class Page:
    """One page. `said` has its errors and what it wrote to the console, `asked` the addresses that it loaded."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=120)
        self.numbers = itertools.count(1)
        self.said, self.asked = [], []
        for domain in ["Runtime", "Log", "Network", "Page"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.hear(message)

    def hear(self, message):
        name, params = message.get("method"), message.get("params", {})
        if name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(params)
        if name == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def see(self, script):
        """What a script gives in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, file, width=1280, height=900, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=pathlib.Path(file).resolve().as_uri())
        eventually(lambda: self.see("document.documentElement.dataset.ready === 'true'"), "the page has drawn itself")

    def click(self, x, y, kinds=("mouseMoved", "mousePressed", "mouseReleased")):
        for kind in kinds:
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)


@contextlib.contextmanager
def page(folder):
    """A page of a browser of its own."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: nothing is said of how the report looks in a browser")
    profile = pathlib.Path(folder, "profile")
    with open(pathlib.Path(folder, "chromium.log"), "wb") as log:
        browser = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log)
    try:
        port = eventually(lambda: profile.joinpath("DevToolsActivePort").read_text().split()[0], "the browser listens")
        listed = eventually(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")), "it has a page")
        yield Page(next(one for one in listed if one["type"] == "page")["webSocketDebuggerUrl"])
    finally:
        browser.terminate()
        browser.wait(timeout=60)
