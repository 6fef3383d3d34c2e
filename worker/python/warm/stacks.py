"""The Python stacks of other processes, read from their memory: `python -I -S stacks.py PID:FD …`.

FD is a descriptor of /proc/PID/mem. Prints one JSON object, {"PID": [thread, …]}, where a thread is {"id": thread id,
"main": true, "frames": [[function, file, line], …]} with the innermost frame first, or {"PID": "why not"}. The processes are not stopped and
do not notice: this works where they are blocked in native code, and where they are stopped.

As in `peek.py`, everything is looked up in our own memory first and checked there. CPython 3.11 and newer.
"""

import ctypes
import json
import os
import struct
import sys
import types

HERE = os.path.dirname(os.path.abspath(__file__))
WORD = 8
# More than anybody reads.
THREADS, FRAMES = 64, 60
THREAD_BYTES = 1024
# Where a frame keeps its code object, the frame below it, and the instruction: (3, 11) and newer.
LAYOUTS = {(3, 11): (32, 48, 56), (3, 12): (0, 8, 56)}


def load(name):
    module = types.ModuleType(name)
    path = os.path.join(HERE, name + ".py")
    with open(path, "rb") as source:
        exec(compile(source.read(), path, "exec"), module.__dict__)
    return module


peek = load("peek")


class Frames:
    """Where an interpreter of our build keeps threads, frames and lines."""

    def __init__(self):
        if sys.version_info < (3, 11):
            raise peek.Unreadable("Python is older than 3.11")
        self.interpreter = peek.Interpreter()
        self.code, self.below, self.at = LAYOUTS[min(sys.version_info[:2], (3, 12))]
        descriptor = os.open("/proc/self/mem", os.O_RDONLY)
        try:
            memory = peek.Memory(descriptor)
            get = ctypes.pythonapi.PyThreadState_Get
            get.restype = ctypes.c_void_p
            thread = get()
            state = memory.word(self.interpreter.runtime + self.interpreter.head)
            self.threads = self.where(memory, state, thread, peek.STATE_BYTES)
            self.fields(memory)
            self.frame_of = None
            self.frame_of = self.find_frame(memory, thread)
            self.native = self.find_native(memory, thread)
            found = self.stacks(memory, self.interpreter.runtime)
            frames = found[0]["frames"]
            names = []
            frame = sys._getframe()
            while frame is not None:
                names.append([frame.f_code.co_qualname, frame.f_code.co_filename])
                frame = frame.f_back
            if [frame[:2] for frame in frames][-len(names):] != names or not found[0]["main"]:
                raise peek.Unreadable("our own frames are not where they should be")
        finally:
            os.close(descriptor)

    @staticmethod
    def where(memory, start, value, size):
        data = memory.some(start, size)
        at = data.find(struct.pack("<Q", value))
        while at >= 0 and at % WORD:
            at = data.find(struct.pack("<Q", value), at + 1)
        if at < 0:
            raise peek.Unreadable("a field was not found")
        return at

    def fields(self, memory):
        """Offsets in code objects."""
        code = self.fields.__func__.__code__.replace(co_firstlineno=123456789)
        size = types.CodeType.__basicsize__
        self.file = self.where(memory, id(code), id(code.co_filename), size)
        self.name = self.where(memory, id(code), id(code.co_qualname), size)
        self.table = self.where(memory, id(code), id(code.co_linetable), size)
        self.first = memory.read(id(code), size).find(struct.pack("<i", 123456789))
        if self.first < 0:
            raise peek.Unreadable("a field was not found")
        self.instructions = size

    def find_frame(self, memory, thread):
        """Offsets that lead from a thread to its innermost frame: in the thread, or by way of a record on the C stack."""
        # The innermost frame while memory is read is that of `Memory.read`, called from here each time.
        wanted, read, word_of = id(peek.Memory.read.__code__), memory.read, struct.Struct("<Q").unpack
        words = struct.unpack("<%dQ" % (THREAD_BYTES // WORD), memory.read(thread, THREAD_BYTES))
        for inner in (None, 0, 8):
            for number, word in enumerate(words):
                try:
                    frame = word if inner is None else word_of(read(word + inner, WORD))[0]
                    if word_of(read(frame + self.code, WORD))[0] & ~7 == wanted:
                        return number * WORD, inner
                except peek.Unreadable:
                    continue
        raise peek.Unreadable("the frames were not found")

    @staticmethod
    def find_native(memory, thread):
        data = memory.read(thread, THREAD_BYTES)
        at = data.find(struct.pack("<Q", os.getpid()))
        return at if at >= 0 and at % WORD == 0 else None

    def stacks(self, memory, runtime):
        """The threads of a process, that which began first at the end of their list and here at the beginning."""
        state = memory.word(runtime + self.interpreter.head)
        thread, found = memory.word(state + self.threads), []
        before = memory.word(thread)
        while before and len(found) < THREADS:
            thread, before = before, memory.word(before)
        while thread and len(found) < THREADS:
            identity = memory.word(thread + self.native) if self.native is not None else 0
            found.append({"id": identity, "main": False, "frames": self.frames(memory, thread)})
            thread = memory.word(thread + WORD)
        found.reverse()
        found[0]["main"] = True
        return found

    def frames(self, memory, thread):
        offset, inner = self.frame_of
        frame, found = memory.word(thread + offset), []
        if inner is not None and frame:
            frame = memory.word(frame + inner)
        while frame and len(found) < FRAMES:
            try:
                found.append(self.frame(memory, frame))
            except (peek.Unreadable, ValueError, TypeError, IndexError):
                pass  # A frame of the interpreter's own.
            frame = memory.word(frame + self.below)
        return found

    def frame(self, memory, frame):
        code = memory.word(frame + self.code) & ~7
        name = memory.text(memory.word(code + self.name))
        file = memory.text(memory.word(code + self.file))
        first, = struct.unpack("<i", memory.read(code + self.first, 4))
        table = memory.word(code + self.table)
        size = memory.word(table + 16)
        if size > 1 << 20:
            raise peek.Unreadable("a table of lines is too long")
        lines = memory.read(table + bytes.__basicsize__ - 1, size)
        at = memory.word(frame + self.at) - code - self.instructions
        return [name, file, self.line(lines, first, at)]

    @staticmethod
    def line(table, first, at):
        line = first
        for start, end, number in Frames.line.__code__.replace(co_linetable=table, co_firstlineno=first).co_lines():
            if start <= at < end:
                return number or line
            line = number or line
        return line


def main(arguments):
    answer = {}
    try:
        frames = Frames()
    except (peek.Unreadable, OSError, AttributeError, ValueError) as error:
        return {argument.partition(":")[0]: str(error) for argument in arguments}
    for argument in arguments:
        pid, _, descriptor = argument.partition(":")
        try:
            memory = peek.Memory(int(descriptor))
            answer[pid] = frames.stacks(memory, frames.interpreter.runtime_of(pid))
        except (peek.Unreadable, OSError, ValueError) as error:
            answer[pid] = str(error)
    return answer


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
