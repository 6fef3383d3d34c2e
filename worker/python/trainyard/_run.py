"""In-process re-initialisation: after a failure elsewhere, the survivors go on without a new interpreter."""

import ctypes
import functools
import json
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any, Callable, Dict, Optional, Set, TypeVar

from ._line import ADDRESS, Line, line

T = TypeVar("T")

# How long an exception that may come from the death of another rank waits for news of that.
NEWS_SECONDS = 2.0
# Wakes the main thread from what it waits in.
WAKE_SIGNAL = int(getattr(signal, "SIGRTMAX", 64)) - 4


class Interrupted(BaseException):
    """Raised in the function that `run` calls when its generation is over. Let it pass."""


def generation() -> int:
    """The generation that this process is in: 1, 2, … with each restart or change of the world; 0 without a launcher."""
    return int(os.environ.get("TRAINYARD_GENERATION") or 0)


def run(train: "Callable[..., T]", *arguments: Any, **named: Any) -> T:
    """Calls `train(*arguments, **named)` and returns what it returns.

    When another rank fails, the generation is over: `train` is left by an exception (the one of the collective that
    broke, or `Interrupted`), torch's process groups are destroyed, RANK, WORLD_SIZE, MASTER_PORT, TRAINYARD_GENERATION …
    are those of the next generation, and `train` is called again. So let it begin with `init_process_group()` and with
    the newest checkpoint; what it needs only once, such as the data set, belongs before `run`.

    An exception of this rank alone is raised as usual: the process ends, and is started again if the job allows it.
    Without a launcher this is the same as `train(*arguments, **named)`.
    """
    here = line(cooperates=True)
    if here is None:
        return train(*arguments, **named)
    orders = _Orders(here)
    try:
        while True:
            try:
                return orders.during(train, arguments, named)
            except (Interrupted, Exception) as error:
                environment = orders.next_world(error)
                if environment is None:
                    raise
            # The exception and its frames are gone here, and with them the tensors that they held.
            _leave_groups()
            _apply(environment)
            here.hello(cooperates=True)
    finally:
        # What comes now hears no interruption: it is ended, as in a program without `run`.
        here.hello(cooperates=False)
        orders.close()


class _Orders:
    """Hears the launcher, in a thread of its own, and interrupts `train`."""

    def __init__(self, here: Line) -> None:
        self.line = here
        self.caller = threading.get_ident()
        self.inside = False
        self.over = 0  # The last generation that was interrupted.
        self.news: "queue.Queue[Optional[Dict[str, Any]]]" = queue.Queue()
        self.connections = _Connections()
        self.signals = threading.current_thread() is threading.main_thread()
        self.previous: Any = None
        if self.signals:
            self.previous = signal.signal(WAKE_SIGNAL, self.wake)
        threading.Thread(target=self.listen, name="trainyard", daemon=True).start()

    def close(self) -> None:
        self.connections.close()
        if self.signals:
            signal.signal(WAKE_SIGNAL, self.previous or signal.SIG_DFL)

    def during(self, train: "Callable[..., T]", arguments: Any, named: Any) -> T:
        try:
            self.connections.watch()
            self.inside = True
            if self.over >= generation() > 0:
                raise Interrupted("generation %d is over" % generation())
            return train(*arguments, **named)
        finally:
            self.inside = False

    def next_world(self, error: BaseException) -> Optional[Dict[str, Any]]:
        """The environment of the next generation; None if the exception is this rank's own affair."""
        elsewhere = isinstance(error, (Interrupted, RuntimeError, ConnectionError, TimeoutError))
        if not elsewhere and self.over < generation():
            return None
        self.line.say({"waiting": {"generation": generation(), "error": "%s: %s" % (type(error).__name__, error)}})
        while True:
            try:
                news = self.news.get(timeout=None if self.over >= generation() else NEWS_SECONDS)
            except queue.Empty:
                return None
            if news is None:
                return None  # The launcher is gone.
            if "generation" in news and int(news["generation"]["generation"]) > generation():
                return dict(news["generation"]["env"])

    def listen(self) -> None:
        try:
            with self.line.socket.makefile("rb") as lines:
                for text in lines:
                    message = json.loads(text)
                    over = 0
                    if "interrupt" in message:
                        over = int(message["interrupt"]["generation"])
                    elif "generation" in message:
                        over = int(message["generation"]["generation"]) - 1
                    self.over = max(self.over, over)
                    self.news.put(message)
                    if self.inside and over >= generation():
                        self.interrupt()
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.news.put(None)

    def interrupt(self) -> None:
        """Leaves `train`: from a collective by ending its connections, from Python by an exception."""
        distributed = sys.modules.get("torch.distributed.distributed_c10d")
        if distributed is not None and distributed.is_initialized():
            try:
                # Gloo has nothing to abort; it ends with its connections, below.
                if "nccl" in distributed.get_backend():
                    distributed._abort_process_group()
            except BaseException as error:  # Whatever it is: the launcher ends ranks that do not come.
                print("trainyard: cannot abort the process group: %s" % error, file=sys.stderr)
        self.connections.cut()
        if not self.inside:
            return
        if self.signals:
            signal.pthread_kill(self.caller, WAKE_SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.caller), ctypes.py_object(Interrupted))

    def wake(self, *_: Any) -> None:
        # The signal may come late, when `train` has been left by itself and is in its next generation.
        if self.inside and self.over >= generation():
            raise Interrupted("generation %d is over" % generation())


class _Connections:
    """The connections of torch's process groups. Gloo does not end a collective that waits for a rank which is alive but
    does not come; without its connections it does."""

    def __init__(self) -> None:
        self.sockets: Set[str] = set()
        self.module: Any = None
        self.made: Any = None

    def watch(self) -> None:
        """Notes which sockets are opened while a group is made."""
        module = sys.modules.get("torch.distributed.distributed_c10d")
        make = getattr(module, "_new_process_group_helper", None)
        if make is None or self.module is not None:
            return

        @functools.wraps(make)
        def noted(*arguments: Any, **named: Any) -> Any:
            before = set(_sockets())
            try:
                return make(*arguments, **named)
            finally:
                self.sockets.update(set(_sockets()) - before)

        self.module, self.made = module, make
        setattr(module, "_new_process_group_helper", noted)

    def cut(self) -> None:
        for name, descriptor in _sockets().items():
            if name in self.sockets:
                try:
                    with socket.socket(fileno=os.dup(descriptor)) as connection:
                        # Gloo ends the process when it cannot listen any more.
                        if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                            connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.sockets.clear()

    def close(self) -> None:
        if self.module is not None:
            setattr(self.module, "_new_process_group_helper", self.made)


def _sockets() -> Dict[str, int]:
    """The sockets of this process by their names, which no two have at a time or soon after one another."""
    found = {}
    for text in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink("/proc/self/fd/" + text)
        except OSError:
            continue
        if name.startswith("socket:"):
            found[name] = int(text)
    return found


def _leave_groups() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    try:
        distributed.destroy_process_group()
    except Exception as error:
        print("trainyard: cannot destroy the process group: %s" % error, file=sys.stderr)


def _apply(environment: Dict[str, Any]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        elif name != ADDRESS:
            os.environ[name] = str(value)
