"""From a spare to a rank: what a fresh process would have, and the program as `python` would have run it."""

import ctypes
import importlib.machinery
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def become(order, descriptors, priority):
    """Everything that a process has from its beginning, but for its memory."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        if descriptor > 2:
            os.close(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    wanted = order["environment"]
    for name in [name for name in os.environb if name not in wanted]:
        del os.environb[name]
    for name, value in wanted.items():
        if os.environb.get(name) != value:
            os.environb[name] = value
    show(b"TRAINYARD_GENERATION", wanted)
    priority.restore()
    fresh()


def show(name, wanted):
    """Writes a number to where others read our environment (/proc/PID/environ): what the zygote was started with. The
    children that we fork keep it."""
    try:
        with open("/proc/self/stat", "rb") as file:
            begin, end = map(int, file.read().rpartition(b")")[2].split()[47:49])
        block = ctypes.string_at(begin, end - begin)
    except (OSError, ValueError):
        return
    at = (b"\0" + block).find(b"\0" + name + b"=")
    if at >= 0:
        at += len(name) + 1
        room = block.index(b"\0", at) - at
        number = wanted.get(name, b"0").rjust(room, b"0")
        if len(number) == room:
            ctypes.memmove(begin + at, number, room)


def fresh():
    """State of libraries that is different in each process. Python's `random` is seeded anew after a fork by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    logging = sys.modules.get("logging")
    if hasattr(logging, "_startTime"):
        import time

        logging._startTime = time.time_ns() if isinstance(logging._startTime, int) else time.time()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def run(namespace, program, order):
    """Runs the program in `namespace`, that of `__main__`. Its end is the interpreter's."""
    arguments = list(program["arguments"])
    path = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(HERE)]
    # Without the script's folder in front where the interpreter was told so (-P, -I).
    safe = getattr(sys.flags, "safe_path", False) or sys.flags.isolated
    for name in [name for name in namespace if not (name.startswith("__") and name.endswith("__"))]:
        del namespace[name]
    namespace["__doc__"] = None
    rename(order.get("command") or [])
    if hasattr(sys, "orig_argv") and order.get("command"):
        sys.orig_argv = list(order["command"])
    try:
        if program["kind"] == "module":
            import runpy

            sys.path[:] = path if safe else [os.getcwd()] + path
            sys.argv[:] = ["-m"] + arguments
            del namespace["__file__"]
            namespace["__cached__"] = None
            runpy._run_module_as_main(program["target"])
        else:
            target = program["target"]
            sys.path[:] = path if safe else [os.path.dirname(os.path.realpath(target))] + path
            sys.argv[:] = [target] + arguments
            if sys.version_info >= (3, 9) and not os.path.isabs(target):
                target = os.path.join(os.getcwd(), target)
            with open(target, "rb") as source:
                text = source.read()
            namespace["__file__"], namespace["__spec__"] = target, None
            namespace["__loader__"] = importlib.machinery.SourceFileLoader("__main__", target)
            exec(compile(text, target, "exec", dont_inherit=True), namespace)
    except BaseException as error:
        show_without_us(error)
        raise


def show_without_us(error):
    """Lets the interpreter end as it does after an uncaught exception, but without our frames in the traceback."""
    hook = sys.excepthook

    def shown(kind, value, trace):
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(HERE + os.sep):
            trace = trace.tb_next
        sys.excepthook = hook
        sys.last_traceback = trace
        hook(kind, value.with_traceback(trace), trace)

    if not isinstance(error, SystemExit):
        sys.excepthook = shown


def rename(command):
    """The command line that `ps` shows: the rank's, as far as it fits where the zygote's was."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        line = b"\0".join(os.fsencode(argument) for argument in command) + b"\0"
        if command and 0 < end - start < 1 << 20:
            ctypes.memmove(start, line[: end - start - 1].ljust(end - start, b"\0"), end - start)
    except (OSError, ValueError, IndexError):
        pass  # Only for people who look.
