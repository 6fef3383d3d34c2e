"""What the client tests stand on: a server of our own, and the real clients that talk to it.

Every test session starts `trainyard up` on a fresh home folder and a free loopback port. Waiting is always for a
condition with a deadline; a deadline that passes fails the test with what was last seen.
"""

import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAINYARD = os.environ.get("TRAINYARD_BIN", str(ROOT / "target" / "release" / "trainyard"))
KUBECTL = os.environ.get("KUBECTL", "kubectl")


def eventually(probe, what, seconds=120, pause=0.05):
    """Call `probe` until it returns something true, and return that. The deadline is far beyond what a slow machine needs: it only
    ends what would never come."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            last = probe()
            if last:
                return last
        except Exception as error:  # the last error is part of the message below
            last = error
        time.sleep(pause)
    raise AssertionError(f"not within {seconds} s: {what}; last seen: {last!r}")


class Server:
    """One `trainyard up`, on its own home folder."""

    def __init__(self, home, *flags):
        self.home, self.flags = pathlib.Path(home), flags
        self.port = free_port()
        self.process = None
        self.env = {**os.environ, "TRAINYARD_HOME": str(self.home), "NO_COLOR": "1"}
        self.env.pop("KUBECONFIG", None)
        self.kubeconfig = self.home.parent / f"{self.home.name}.kubeconfig"

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        if elsewhere := os.environ.get("TEST_KUBECONFIG"):  # the same tests against another API server
            self.kubeconfig.write_text(pathlib.Path(elsewhere).read_text())
            return self
        log = open(self.home.parent / f"{self.home.name}.log", "ab")
        self.process = subprocess.Popen(
            [TRAINYARD, "up", "--listen", f"127.0.0.1:{self.port}", *self.flags],
            env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )
        eventually(self.ready, "the server is ready")
        self.kubeconfig.write_text(self.trainyard("kubeconfig").stdout)
        return self

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log()}")
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as s:
            s.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return b" 200 " in s.recv(1024).split(b"\r\n")[0]

    def log(self):
        return (self.home.parent / f"{self.home.name}.log").read_text(errors="replace")[-4000:]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=120)

    def trainyard(self, *args, check=True, input=None, timeout=120, cwd=None):
        done = subprocess.run([TRAINYARD, *args], env=self.env, capture_output=True, text=True,
                              input=input, timeout=timeout, cwd=cwd)
        if check and done.returncode != 0:
            raise AssertionError(f"trainyard {args} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def kubectl(self, *args, check=True, input=None, timeout=120):
        env = {**self.env, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home.parent)}
        done = subprocess.run([KUBECTL, *args], env=env, capture_output=True, text=True, input=input, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {args} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)


def free_port():
    """A port that nobody listens at, and that no other test gets while this process is there, were it only for a moment that a
    server which is killed and started again does not listen. Not one of those that outgoing connections get."""
    folder = pathlib.Path(tempfile.gettempdir(), f"trainyard-test-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        port = random.randrange(10_000, 20_000)
        claim = open(folder / str(port), "w")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            CLAIMS.append(claim)
            return port


# Of the ports that `free_port` has given to this process: open, thus locked, as long as it runs.
CLAIMS = []


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    s = Server(tmp_path_factory.mktemp("trainyard") / "home").start()
    yield s
    s.stop()


@pytest.fixture
def namespace(server):
    """A fresh namespace, removed afterwards."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", name)
    yield name
    server.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def own_server(tmp_path):
    """A server for tests that stop, kill or restart it."""
    s = Server(tmp_path / "home").start()
    yield s
    s.stop()


def pytest_configure(config):
    for program in (KUBECTL,) if os.environ.get("TEST_KUBECONFIG") else (TRAINYARD, KUBECTL):
        if not shutil.which(program):
            raise pytest.UsageError(f"{program} is missing; tests/run builds or installs it")
