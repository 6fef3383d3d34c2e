"""Where a zygote begins: `python FLAGS zygote.py`, started by `trainyard launch` as a spare for Python programs.

This file is the `__main__` of the zygote and of the ranks that it forks. It only loads `serve.py` beside it, under names
that a program never sees, and makes room for the program, whose `__main__` this then is.
"""

import os
import sys
import types


def load(name):
    """A file of this folder as a module that is not in `sys.modules`."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    module = types.ModuleType("trainyard_" + name)
    module.__file__, module.load = path, load
    with open(path, "rb") as source:
        exec(compile(source.read(), path, "exec"), module.__dict__)
    return module


if __name__ == "__main__":
    load("serve").main(globals())
