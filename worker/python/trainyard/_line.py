"""The connection to the launcher: JSON lines on a UNIX socket. Losing it costs a program nothing."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Optional

ADDRESS = "TRAINYARD_LAUNCHER_SOCKET"
# Steps are told at most this often; nobody looks more often.
SECONDS_BETWEEN_STEPS = 0.05
# What may wait for a launcher that is busy; after that, steps are dropped.
WAITING_BYTES = 64 * 1024
# The signal upon which all stacks of this process are written to the descriptor named in `hello`.
STACKS_SIGNAL = int(getattr(signal, "SIGRTMAX", 64)) - 3


class Line:
    """One connection, of one process."""

    def __init__(self, cooperates: bool) -> None:
        self.lock = threading.Lock()
        self.pid = os.getpid()
        self.waiting = b""
        self.steps = 0
        self.told = 0.0
        self.phases: List[str] = []
        address = os.environ[ADDRESS]
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self.socket.close()
            raise
        self.stacks = stacks()
        self.hello(cooperates)

    def hello(self, cooperates: bool) -> None:
        """Says who this is: first, and again when it has become another rank or another generation."""
        hello: Dict[str, Any] = {
            "rank": int(os.environ.get("RANK", "0")),
            "generation": int(os.environ.get("TRAINYARD_GENERATION") or "0"),
            "pid": self.pid,
            "cooperates": cooperates,
        }
        hello.update(self.stacks)
        self.say({"hello": hello})

    def say(self, message: Dict[str, Any], needed: bool = True) -> None:
        """Sends a message without waiting. One that is not needed is dropped when others still wait."""
        with self.lock:
            if not needed and self.waiting:
                message = {}
            if message:
                self.waiting += json.dumps(message).encode() + b"\n"
            try:
                while self.waiting:
                    sent = self.socket.send(self.waiting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                    self.waiting = self.waiting[sent:]
            except BlockingIOError:
                if len(self.waiting) > WAITING_BYTES:
                    self.waiting = b""
                    self.socket.close()
            except OSError:
                self.waiting = b""


def stacks() -> Dict[str, int]:
    """Lets the launcher have our stacks even when we are blocked in native code; says how."""
    try:
        import faulthandler

        if signal.getsignal(STACKS_SIGNAL) is not signal.SIG_DFL:
            return {}  # The program's own.
        descriptor = os.memfd_create("trainyard-stacks")
        faulthandler.register(STACKS_SIGNAL, file=descriptor, all_threads=True)
        return {"stacks": descriptor, "stacksSignal": STACKS_SIGNAL}
    except (AttributeError, ImportError, OSError, ValueError, RuntimeError):
        return {}


_line: Optional[Line] = None
_off = False


def line(cooperates: bool = False) -> Optional[Line]:
    """The connection of this process; None when no launcher is there. Processes that it forks have none: they are no ranks."""
    global _line, _off
    if _line is not None:
        if _line.pid == os.getpid():
            if cooperates:
                _line.hello(cooperates)
            return _line
        return None
    if _off or not os.environ.get(ADDRESS) or "RANK" not in os.environ:
        return None
    try:
        _line = Line(cooperates)
    except (OSError, ValueError):
        _off = True
        return None
    return _line


def step(n: Optional[int] = None, **metrics: float) -> None:
    """Says that a step is done: number `n`, or the next one. Numbers such as `loss=0.5` are shown with it.

    Costs some microseconds, never waits and never fails. Metrics are looked at only when they are told, some 20 times
    a second: a tensor given as a metric is not brought from its device in the steps between.
    """
    here = _line
    if here is None or here.pid != os.getpid():
        here = line()
        if here is None:
            return
    here.steps = here.steps + 1 if n is None else n
    now = time.monotonic()
    if now - here.told < SECONDS_BETWEEN_STEPS:
        return
    here.told = now
    try:
        message: Dict[str, Any] = {"step": int(here.steps)}
        numbers = {name: float(value) for name, value in metrics.items()}
        numbers = {name: value for name, value in numbers.items() if value - value == 0}  # JSON has no infinities.
        if numbers:
            message["metrics"] = numbers
        here.say({"step": message}, needed=False)
    except (TypeError, ValueError, RuntimeError) as error:
        _complain(error)


def checkpointing() -> "contextlib.AbstractContextManager[None]":
    """`with checkpointing():` around what writes a checkpoint: a pause that is meant, however long."""
    return _phase("checkpoint")


def evaluating() -> "contextlib.AbstractContextManager[None]":
    """`with evaluating():` around what evaluates: no step is expected meanwhile."""
    return _phase("evaluate")


@contextlib.contextmanager
def _phase(name: str) -> Iterator[None]:
    here = line()
    if here is None:
        yield
        return
    here.phases.append(name)
    here.say({"phase": name})
    try:
        yield
    finally:
        here.phases.pop()
        here.say({"phase": here.phases[-1] if here.phases else "train"})


_complained = False


def _complain(error: BaseException) -> None:
    """Once: a wrong argument must not end a training."""
    global _complained
    if not _complained:
        _complained = True
        print("trainyard.step: %s" % error, file=sys.stderr)
