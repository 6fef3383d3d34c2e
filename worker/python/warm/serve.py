"""Warm start: one interpreter that has done a program's heavy imports, and spares forked from it that wait to be a rank.

The launcher starts `python FLAGS zygote.py` with a SOCK_SEQPACKET socket as descriptor TRAINYARD_ZYGOTE and speaks JSON,
one message a packet:

    launcher   {"prepare": {"kind": "path"|"module", "target": "train.py", "arguments": ["--lr", "1"], "learn": true,
                            "spares": 2, "of": 123}}            with a descriptor of /proc/123/mem of a running rank
    zygote     {"prepared": {"imported": 412, "failed": {"name": "why"}, "forks": true, "why": ""}}
    zygote     {"spare": {"pid": 124}}                          with the socket of the spare, once for each
    launcher   {"more": {"spares": 1, "of": 130}}               after spares were used
    zygote     {"unfit": {"why": "…"}}                          and ends

What is imported: what the program's own files import at their top, as far as it comes from the standard library or from
installed packages, and what the running rank has loaded beyond that, now and later (some libraries import half of
themselves at the first step). When that grows, new spares are made, and the launcher lets the older ones go.

A spare is forked twice, so that the launcher (a child subreaper) is its parent, and waits for one packet:

    launcher   {"folder": "/work", "argv0": "train.py"} \\n NAME=value \\0 NAME=value \\0 …   with the rank's 0, 1 and 2
    spare      {"started": {}}  and is the rank, or  {"refused": {"why": "…"}}  and ends

It refuses when the environment differs from the zygote's in something that an import has read. Where a library has
started threads or opened devices that do not survive a fork, the zygote does not fork: it is the one spare itself.
"""

import array
import ctypes
import importlib
import json
import os
import re
import select
import signal
import socket
import sys
import time
import warnings

PACKET = 4 * 1024 * 1024
PR_SET_PDEATHSIG = 1
# Libraries whose threads or devices do not survive a fork.
NEVER_FORK = ("grpc", "tensorflow", "jax", "jaxlib", "ray", "pyspark")
# What native libraries read when they are loaded, or what decides how Python itself runs.
NATIVE = re.compile(r"(PYTHON|LD_|MALLOC_|GLIBC_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|GOTO_|BLIS_|NUMEXPR_|VECLIB_)")
# How much lower than the ranks the zygote ranks where CPU and memory are short.
NICE, KILL_FIRST = 5, 500
# When the rank's modules are looked at again, in seconds after the imports; then every LATER seconds.
LOOKS, LATER = (0.5, 1, 2, 4, 8, 15), 60
# Seconds of imports after which the first spares are made before the rank's other modules are imported.
EARLY = 0.5
HERE = os.path.dirname(os.path.abspath(__file__))


def main(namespace):
    """The zygote's life, and then the life of the rank that it, or one of its spares, has become."""
    launcher = os.getppid()
    control = socket.socket(fileno=int(os.environ.pop("TRAINYARD_ZYGOTE")))
    os.environ.pop("TRAINYARD_GENERATION", None)
    zygote = Zygote(launcher, control)
    order = zygote.serve()
    if order is not None:
        zygote.starter.run(namespace, zygote.program, order)


class Reads:
    """Which variables are read while modules are imported."""

    def __init__(self):
        self.names = set()
        names, environ = self.names, type(os.environ)

        class Watched(environ):
            def __getitem__(self, name):
                names.add(name)
                return environ.__getitem__(self, name)

            def __contains__(self, name):
                names.add(name)
                return environ.__contains__(self, name)

        self.watched, self.plain = Watched, environ

    def __enter__(self):
        os.environ.__class__ = self.watched

    def __exit__(self, *_):
        os.environ.__class__ = self.plain


class Zygote:
    def __init__(self, launcher, control):
        self.launcher, self.control = launcher, control
        self.reads, self.failed, self.applied = Reads(), {}, {}
        self.began = dict(os.environ)
        self.program, self.static, self.memory, self.rank = None, None, None, None
        self.interpreter, self.path = None, None
        self.tried, self.spares, self.looks, self.next_look = set(), 0, None, None
        self.priority, self.learns = Priority(), True
        # Before the fork: a rank has no time to compile it.
        self.starter = load("program")

    def serve(self):
        """Returns in a spare, when it becomes a rank, with its order; in the zygote when the launcher is gone."""
        while True:
            ready, _, _ = select.select([self.control], [], [], self.patience())
            if ready:
                message, descriptors = receive(self.control)
                if message is None:
                    return None
                order = self.hear(json.loads(message), descriptors)
            else:
                order = self.look()
            if order is not None:
                return order

    def hear(self, message, descriptors):
        order = message.get("prepare") or message.get("more")
        if order is None:
            return None
        if self.memory is not None:
            os.close(self.memory)
        self.memory, self.rank = (descriptors or [None])[0], order.get("of")
        self.spares, self.looks = order["spares"], iter(LOOKS)
        if "prepare" in message:
            self.priority.lower()
            self.program = {name: order[name] for name in ("kind", "target", "arguments")}
            self.learns = order["learn"]
            began = time.monotonic()
            self.read_program()
            if time.monotonic() - began > EARLY and self.memory is not None and self.learns:
                # The rest takes its time, too, and these are far better than none.
                order = self.make()
                if order is not None:
                    return order
            self.learn()
        else:
            self.learn()
        return self.make()

    def patience(self):
        """Seconds until the next look at the rank's modules; None when there is no rank to look at."""
        if self.memory is None or self.looks is None or not self.learns:
            return None
        if self.next_look is None:
            self.next_look = time.monotonic() + next(self.looks, LATER)
        return max(0.0, self.next_look - time.monotonic())

    def look(self):
        self.next_look = None
        return self.make() if self.learn() else None

    def read_program(self):
        """Imports what the program's files import at their top, with the environment that they set."""
        kind, target = self.program["kind"], self.program["target"]
        reader = load("imports")
        if kind == "module":
            path = [os.getcwd()] + own_path()
            self.static = reader.Program(path).module(target)
        else:
            path = [os.path.dirname(os.path.realpath(target))] + own_path()
            self.static = reader.Program(path).script(target)
        if None in self.static.late:
            self.learns = False
        self.path = path
        for step in self.static.steps:
            if step[0] == "import":
                self.bring(step[1])
            elif step[0] == "attribute":
                self.bring(step[1], step[2])
            elif step[0] == "set" or step[1] not in os.environ:
                self.applied[step[1]] = os.environ[step[1]] = step[2]

    def bring(self, name, attribute=None):
        if name in self.tried and attribute is None:
            return
        self.tried.add(name)
        try:
            with self.reads:
                module = importlib.import_module(name)
                if attribute is not None:
                    try:
                        getattr(module, attribute)
                    except AttributeError:
                        importlib.import_module(name + "." + attribute)
        except BaseException as error:  # Whatever it is, the program will meet it itself.
            self.failed[name] = repr(error)[:200]

    def learn(self):
        """Imports what the running rank has loaded and we have not. True if that was anything."""
        if self.memory is None or not self.learns:
            return False
        if not self.static.whole:
            # The environment at its later imports is unknown.
            self.learns = False
            return False
        peek = load("peek")
        try:
            self.interpreter = self.interpreter or peek.Interpreter()
            memory = peek.Memory(self.memory)
            names, path = self.interpreter.learn(memory, self.interpreter.runtime_of(self.rank))
        except Exception as error:  # The rank may be ending just now.
            self.failed["learning"] = repr(error)
            os.close(self.memory)
            self.memory = None
            return False
        try:
            return self.follow(names, path)
        except Exception as error:
            self.failed["learning"] = repr(error)
            return False

    def follow(self, names, path):
        """Imports what a rank with this path has loaded. True if that was anything new."""
        before, tops = len(sys.modules), {}
        reader = load("imports")
        for name in names:
            top = name.partition(".")[0]
            if name in sys.modules or name in self.tried or top == "__main__":
                continue
            if top not in tops:
                # As the rank looks for it, and as we do: both must find the same installed package.
                specs = [reader.find(top, path), reader.find(top, None)]
                tops[top] = all(
                    spec is not None and reader.places(spec) and not self.static.own(spec) for spec in specs
                ) and len({tuple(reader.places(spec)) for spec in specs}) == 1
            if tops[top]:
                self.bring(name)
        return len(sys.modules) != before

    def make(self):
        """Makes the spares, or becomes the one."""
        late = self.reads.names & self.static.late
        if late:
            say(self.control, {"unfit": {"why": "the program sets %s, which an import reads" % min(late)}})
            return None
        why = no_fork()
        answer = {"imported": len(sys.modules), "failed": dict(list(self.failed.items())[:20])}
        say(self.control, {"prepared": {**answer, "forks": not why, "why": why}})
        if why:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            say(self.control, {"spare": {"pid": os.getpid()}}, [theirs.fileno()])
            theirs.close()
            return self.wait(ours)
        for _ in range(self.spares):
            order = self.fork()
            if order is not None:
                return order
        return None

    def fork(self):
        """A spare whose parent is the launcher. In the spare: the order that makes it a rank."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line, end = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About threads, which `no_fork` has looked at.
            child = os.fork()
            if child == 0:
                spare = os.fork()
                if spare != 0:
                    os.write(end, str(spare).encode())
                    os._exit(0)
        if child == 0:
            for each in (theirs.close, lambda: os.close(line), lambda: os.close(end)):
                each()
            return self.wait(ours)
        ours.close()
        os.close(end)
        pid = os.read(line, 32)
        os.close(line)
        os.waitpid(child, 0)
        if pid:
            say(self.control, {"spare": {"pid": int(pid)}}, [theirs.fileno()])
        theirs.close()
        return None

    def wait(self, line):
        """In a spare: waits for the order."""
        try:
            if os.getsid(0) != os.getpid():
                os.setsid()
            while os.getppid() != self.launcher:
                # The process between is still ending; if the launcher is gone nobody waits for this one.
                if os.getppid() == 1 and self.launcher != 1:
                    os._exit(1)
                time.sleep(0.001)
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self.launcher:
                os._exit(1)
            self.control.close()
            if self.memory is not None:
                os.close(self.memory)
            message, descriptors = receive(line)
            if message is None:
                os._exit(0)
            header, _, block = message.partition(b"\n")
            order = json.loads(header)
            order["environment"] = dict(pair.split(b"=", 1) for pair in block.split(b"\0") if b"=" in pair)
            why = self.unlike(order)
            if why:
                say(line, {"refused": {"why": why}})
                os._exit(0)
            self.starter.become(order, descriptors, self.priority)
            say(line, {"started": {}})
            line.close()
            return order
        except BaseException as error:
            try:
                say(line, {"refused": {"why": repr(error)}})
            finally:
                os._exit(1)

    def unlike(self, order):
        """What in the rank's environment is not as the imports saw it; empty if nothing is."""
        if os.path.realpath(order["folder"]) != os.getcwd():
            return "it runs in another folder"
        wanted = {os.fsdecode(name): os.fsdecode(value) for name, value in order["environment"].items()}
        for name in set(wanted) | set(self.began):
            if wanted.get(name) != self.began.get(name):
                if name in self.applied:
                    if wanted.get(name) is not None:
                        return "%s is set, which the program sets if it is not" % name
                elif name in self.reads.names or NATIVE.match(name):
                    return "%s is another one, which an import has read" % name
        return ""


class Priority:
    """Gives way to the ranks while it imports; the ranks that come of it do not."""

    def __init__(self):
        self.nice, self.kill = os.getpriority(os.PRIO_PROCESS, 0), self.value("oom_score_adj")

    @staticmethod
    def value(name, text=None):
        try:
            with open("/proc/self/" + name, "r" if text is None else "w", encoding="ascii") as file:
                return file.read().strip() if text is None else file.write(text)
        except OSError:
            return None

    def lower(self):
        self.value("autogroup", str(NICE))
        if self.kill is not None:
            self.value("oom_score_adj", str(min(1000, int(self.kill) + KILL_FIRST)))
        if self.may_raise():
            os.setpriority(os.PRIO_PROCESS, 0, min(19, self.nice + NICE))

    def may_raise(self):
        """Whether a lowered priority could be raised again: tried in a process of its own, because else it is lost."""
        child = os.fork()
        if child == 0:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, min(19, self.nice + 1))
                os.setpriority(os.PRIO_PROCESS, 0, self.nice)
                os._exit(0)
            except OSError:
                os._exit(1)
        return os.waitpid(child, 0)[1] == 0

    def restore(self):
        self.value("autogroup", "0")
        if self.kill is not None:
            self.value("oom_score_adj", self.kill)
        if os.getpriority(os.PRIO_PROCESS, 0) != self.nice:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)


def own_path():
    """sys.path without this folder, which `python zygote.py` has put there."""
    return [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(HERE)]


def no_fork():
    """Why this process must not be forked; empty if it may be."""
    for name in NEVER_FORK:
        if name in sys.modules:
            return name + " is imported, which does not survive a fork"
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + descriptor)
        except OSError:
            continue
        if target.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri")):
            return "an import has opened %s, which does not survive a fork" % target
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads and threads > openblas_threads():
        return "an import has started threads"
    with open("/proc/self/task/%d/children" % os.getpid(), encoding="ascii") as children:
        if children.read().strip():
            return "an import has started processes"
    return ""


def openblas_threads():
    """Threads of OpenBLAS pools: they end before a fork and start again when they are used, by handlers of its own."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        paths = {line.rstrip("\n").split(None, 5)[5] for line in lines if "openblas" in line}
    count = 0
    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_", "_64"):
                function = getattr(library, prefix + "openblas_get_num_threads" + suffix, None)
                if function is not None:
                    count += max(0, function() - 1)
                    break
    return count


def receive(line):
    """One packet and the descriptors that came with it; (None, []) at the end."""
    size = array.array("i").itemsize
    message, ancillary, _, _ = line.recvmsg(PACKET, socket.CMSG_SPACE(4 * size), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    return (message or None), list(descriptors)


def say(line, message, descriptors=()):
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    line.sendmsg([json.dumps(message).encode()], ancillary)
