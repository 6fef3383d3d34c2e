"""Speaks to a zygote as the launcher does, and runs a program cold and warm."""

import array
import ctypes
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading

WARM = pathlib.Path(__file__).resolve().parents[2] / "worker" / "python" / "warm"
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 120


def adopt_orphans():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def receive(line, seconds=PATIENCE):
    ready, _, _ = select.select([line], [], [], seconds)
    if not ready:
        raise AssertionError("nothing was said")
    message, ancillary, _, _ = line.recvmsg(1 << 20, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    return (json.loads(message) if message else None), list(descriptors)


class Zygote:
    """A zygote and the spares it made."""

    def __init__(self, command, folder, env, spares=1, of=None, learn=True, python=sys.executable):
        adopt_orphans()
        self.command, self.folder, self.env = [python, *command], str(folder), env
        flags, kind, target, arguments = split(command)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.set_inheritable(True)
        self.process = subprocess.Popen(
            [python, *flags, str(WARM / "zygote.py"), target, *arguments], cwd=folder, pass_fds=[theirs.fileno()],
            env={**env, "TRAINYARD_ZYGOTE": str(theirs.fileno()), "TRAINYARD_GENERATION": "0" * 20}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self.say({"prepare": {"kind": kind, "target": target, "arguments": arguments, "learn": learn,
                              "spares": spares, "of": of}}, of)
        self.prepared = receive(self.control)[0]["prepared"]
        self.spares = [self.spare() for _ in range(spares if self.prepared["forks"] else 1)]

    def say(self, message, of=None):
        descriptors = [os.open(f"/proc/{of}/mem", os.O_RDONLY)] if of else []
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.control.sendmsg([json.dumps(message).encode()], ancillary)
        for descriptor in descriptors:
            os.close(descriptor)

    def spare(self):
        said, descriptors = receive(self.control)
        return said["spare"]["pid"], socket.socket(fileno=descriptors[0])

    def start(self, env=None, command=None):
        """Makes a spare a rank; gives its pid and its standard output and error, or why it refused."""
        pid, line = self.spares.pop(0)
        (out, out_end), (error, error_end) = os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        order = json.dumps({"folder": self.folder, "command": command or self.command}).encode() + b"\n"
        for name, value in (self.env if env is None else env).items():
            order += f"{name}={value}".encode() + b"\0"
        rights = array.array("i", [null, out_end, error_end])
        line.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        for each in rights:
            os.close(each)
        answer, _ = receive(line)
        line.close()
        if "refused" in answer:
            os.close(out), os.close(error)
            return None, answer["refused"]["why"]
        return pid, (os.fdopen(out, "rb"), os.fdopen(error, "rb"))

    def run(self, env=None):
        """A whole life: (exit status as subprocess gives it, standard output, standard error)."""
        pid, (out, error) = self.start(env)
        texts = [b"", b""]

        def drain(at, pipe):
            with pipe:
                texts[at] = pipe.read()

        readers = [threading.Thread(target=drain, args=pair) for pair in enumerate((out, error))]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        _, status = os.waitpid(pid, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return code, texts[0].decode(), texts[1].decode()

    def close(self):
        self.control.close()
        for _, line in self.spares:
            line.close()
        self.process.kill()
        self.process.wait()
        for pid, _ in self.spares:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def split(command):
    """Flags, kind, target and arguments; the tests use only simple forms."""
    flags, rest = [], list(command)
    while rest[0].startswith("-") and rest[0] != "-m":
        flags.append(rest.pop(0))
        if flags[-1] in ("-W", "-X"):
            flags.append(rest.pop(0))
    if rest[0] == "-m":
        return flags, "module", rest[1], rest[2:]
    return flags, "path", rest[0], rest[1:]


def cold(command, folder, env, python=sys.executable):
    done = subprocess.run([python, *command], cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                          start_new_session=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def warm(command, folder, env, **options):
    zygote = Zygote(command, folder, env, **options)
    try:
        return zygote.run()
    finally:
        zygote.close()
