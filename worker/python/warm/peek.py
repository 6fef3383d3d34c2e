"""Reads what another Python process holds in memory, without its help and without stopping it.

The other process runs the same interpreter as this one, so that nothing about the interpreter needs to be known
beforehand: where it keeps its modules is looked up in our own memory, where the answer is known, and tried there before
it is used. Whatever does not add up is an error, and then nothing is learned: no rank is ever troubled by it.
"""

import ctypes
import os
import struct
import sys

WORD = 8
# Words of the interpreter's state that are searched for a known address.
RUNTIME_BYTES = 8 * 1024
STATE_BYTES = 64 * 1024
# More than any program has.
ENTRIES = 200_000
NAME_BYTES = 4096


class Unreadable(Exception):
    """The memory is not what it is expected to be."""


class Memory:
    """Memory of a process through /proc/PID/mem."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def read(self, address, size):
        try:
            data = os.pread(self.descriptor, size, address)
        except (OSError, OverflowError, ValueError) as error:
            raise Unreadable(str(error)) from None
        if len(data) < size:
            raise Unreadable("the memory ends")
        return data

    def some(self, address, size):
        """As much as there is."""
        while size >= WORD:
            try:
                return self.read(address, size)
            except Unreadable:
                size //= 2
        return b""

    def word(self, address):
        return struct.unpack("<Q", self.read(address, WORD))[0]

    def text(self, address):
        """A str; only ASCII, which is what modules are named in."""
        length = self.word(address + 16)
        if length > NAME_BYTES:
            raise Unreadable("a name is too long")
        try:
            return self.read(address + sys.getsizeof("") - 1, length).decode("ascii")
        except UnicodeDecodeError:
            raise Unreadable("a name is not ASCII") from None

    def texts(self, address):
        """A list of str."""
        size, items = self.word(address + 16), self.word(address + 24)
        if size > ENTRIES:
            raise Unreadable("a list is too long")
        data = self.read(items, size * WORD)
        return [self.text(item) for item, in struct.iter_unpack("<Q", data)]

    def entries(self, address):
        """(address of key, address of value) of a dict, in its order."""
        keys = self.word(address + 32)
        if sys.version_info >= (3, 11):
            index_bytes, kind = self.read(keys + 9, 2)
            count, start = self.word(keys + 24), keys + 32 + (1 << index_bytes)
            width = 2 if kind else 3
        else:
            size = self.word(keys + 8)
            index = 1 if size <= 0xFF else 2 if size <= 0xFFFF else 4 if size <= 0xFFFFFFFF else 8
            count, start, width = self.word(keys + 32), keys + 40 + size * index, 3
        if count > ENTRIES:
            raise Unreadable("a dict is too large")
        data = self.read(start, count * width * WORD)
        rows = struct.iter_unpack("<%dQ" % width, data)
        return [(row[-2], row[-1]) for row in rows if row[-1]]

    def get(self, address, wanted):
        """The address of a dict's value."""
        for key, value in self.entries(address):
            try:
                if self.text(key) == wanted:
                    return value
            except Unreadable:
                continue
        raise Unreadable("there is no " + wanted)


class Interpreter:
    """Where an interpreter of our own build keeps what, found in our own memory."""

    def __init__(self):
        locked = sys.version_info < (3, 13) or sys._is_gil_enabled()
        if struct.calcsize("P") != WORD or sys.byteorder != "little" or not locked:
            raise Unreadable("not a build that can be read")
        self.runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
        self.file, self.base = None, None
        for start, _, path in mappings("self"):
            if start <= self.runtime and path.startswith("/"):
                self.file = path
        self.base = min(start for start, _, path in mappings("self") if path == self.file)
        descriptor = os.open("/proc/self/mem", os.O_RDONLY)
        try:
            memory = Memory(descriptor)
            self.head, self.modules = self.search(memory)
            known, path = self.learn(memory, self.runtime)
            if known != list(sys.modules) or path != sys.path:
                raise Unreadable("our own modules are not where they should be")
        finally:
            os.close(descriptor)

    def search(self, memory):
        """Offsets of the interpreter's state in the runtime, and of the modules in that state."""
        wanted = struct.pack("<Q", id(sys.modules))
        runtime, found, limit = memory.some(self.runtime, RUNTIME_BYTES), None, STATE_BYTES
        for at in range(0, len(runtime) - WORD, WORD):
            state = struct.unpack_from("<Q", runtime, at)[0]
            if state >= 4096 and state % WORD == 0 and not state >> 47:
                offset = memory.some(state, limit).find(wanted)
                if offset >= 0 and offset % WORD == 0:
                    # Something else may lie before the state in memory: what points to its beginning is nearest.
                    found, limit = (at, offset), offset
        if found is None:
            raise Unreadable("the modules were not found")
        return found

    def runtime_of(self, pid):
        """Where the runtime of another process is."""
        starts = [start for start, _, path in mappings(pid) if path == self.file]
        if not starts:
            raise Unreadable("it runs another interpreter")
        return self.runtime - self.base + min(starts)

    def learn(self, memory, runtime):
        """Names of the modules that are loaded, in order, and the path on which they were looked for."""
        modules = memory.word(memory.word(runtime + self.head) + self.modules)
        names = []
        for key, _ in memory.entries(modules):
            try:
                names.append(memory.text(key))
            except Unreadable:
                continue
        namespace = memory.word(memory.get(modules, "sys") + 16)
        return names, memory.texts(memory.get(namespace, "path"))


def mappings(pid):
    """(start, end, path) of what is mapped into a process."""
    with open("/proc/%s/maps" % pid, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(None, 5)
            start, _, end = fields[0].partition("-")
            yield int(start, 16), int(end, 16), fields[5] if len(fields) > 5 else ""
