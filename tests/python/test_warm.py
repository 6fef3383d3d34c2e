"""A rank that was started warm is as one that was started cold: the same output, the same traceback, the same end."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import driver  # noqa: E402

PROGRAMS = {
    "who it is": """
        import sys, os, __main__
        print(sys.argv, __file__, __name__, __spec__, __package__, __doc__, sys.path, __main__.__dict__ is globals())
        print(sorted(name for name in globals()), type(__loader__).__name__, __loader__.path, sys.executable, sys.flags)
        print(sys.orig_argv if hasattr(sys, "orig_argv") else "", sys.warnoptions, sys._xoptions, os.getcwd())
        print(sys.stdin, sys.stdout, sys.stderr, sys.stdout.line_buffering, sys.stdout.write_through)
        print(sorted(os.environ.items()))
        """,
    "its process": """
        import os, signal, resource, threading
        print(os.getpid() == os.getsid(0) == os.getpgrp(), os.nice(0), open("/proc/self/oom_score_adj").read())
        print({s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)})
        print([l for l in open("/proc/self/status") if l.startswith(("SigB", "SigI", "SigC"))])
        print(sorted(os.readlink("/proc/self/fd/" + fd).partition(":")[0] for fd in "012"))
        print(len(os.listdir("/proc/self/fd")), threading.current_thread() is threading.main_thread())
        print(open("/proc/self/cmdline").read().rstrip("\\0").split("\\0"))
        """,
    "an exception": """
        import json
        def inner():
            json.loads("{")
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("outer") from error
        """,
    "a class of exceptions": """
        class Mine(Exception):
            pass
        raise Mine("text")
        """,
    "a syntax error": "print('before')\ndef (:\n",
    "a hook": """
        import sys
        def hook(kind, value, trace):
            print("hook", kind.__name__, value, trace.tb_frame.f_code.co_name, trace.tb_lineno, trace.tb_next)
        sys.excepthook = hook
        raise KeyError("x")
        """,
    "exit 3": "import sys; print('x', end=''); sys.exit(3)",
    "exit none": "raise SystemExit",
    "exit with words": "import sys; sys.exit('in words')",
    "an interrupt": """
        import atexit
        atexit.register(print, "at exit")
        raise KeyboardInterrupt
        """,
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "at exit": """
        import atexit, sys, threading, time
        atexit.register(lambda: print("bye"))
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        sys.stdout.write("no newline")
        """,
    "pickling": """
        import pickle, copyreg
        class Thing:
            def __init__(self): self.x = 1
            def __eq__(self, other): return self.x == other.x
        print(pickle.loads(pickle.dumps(Thing())) == Thing(), Thing.__module__, pickle.dumps(Thing))
        """,
    "spawned processes": """
        import multiprocessing, sys
        class Job:
            def __init__(self, x): self.x = x
        def work(job):
            return job.x * 2, __name__, sys.argv
        if __name__ == "__main__":
            for method in ("spawn", "fork", "forkserver"):
                with multiprocessing.get_context(method).Pool(2) as pool:
                    print(method, pool.map(work, [Job(x) for x in range(3)]))
        """,
    "own modules": """
        import helper, sub.deep, json
        from sub import deep
        print(helper.VALUE, deep.NAME, helper.__file__)
        """,
    "warnings": """
        import warnings
        warnings.warn("deprecated", DeprecationWarning)
        assert False, "assertions are on"
        """,
    "frames": """
        import sys, traceback
        def f(): return [entry.name for entry in traceback.extract_stack()][-2:]
        print(f())
        """,
    "an encoding": "# -*- coding: latin-1 -*-\nprint('caf\u00e9')\n",
    "no variable": "import os\nassert 'TRAINYARD_ZYGOTE' not in os.environ\nprint(os.environ.get('RANK'))\n",
}
FLAGS = [[], ["-u"], ["-O"], ["-W", "error"], ["-X", "dev"], ["-I"], ["-B", "-s", "-E"]]


@pytest.fixture
def env():
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "helper.py").write_text("import decimal\nVALUE = 5\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "__init__.py").write_text("import fractions\n")
    (tmp_path / "sub" / "deep.py").write_text("from . import other\nNAME = __name__\n")
    (tmp_path / "sub" / "other.py").write_text("")
    return tmp_path


def same(command, folder, env):
    cold, warm = (run(command, folder, env) for run in (driver.cold, driver.warm))
    assert plain(cold) == plain(warm)


def plain(end):
    """Without addresses of objects."""
    return [re.sub("0x[0-9a-f]+", "0x", str(part)) for part in end]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_script(name, folder, env):
    text = textwrap.dedent(PROGRAMS[name])
    (folder / "train.py").write_text(text, encoding="latin-1" if "latin-1" in text else "utf-8")
    same(["train.py", "--lr", "1"], folder, env)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("a syntax error", "an encoding")])
def test_a_module(name, folder, env):
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("import decimal\n")
    (folder / "pkg" / "train.py").write_text(textwrap.dedent(PROGRAMS[name]))
    same(["-m", "pkg.train", "--lr", "1"], folder, env)


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("name", ["who it is", "warnings", "exit with words"])
def test_flags(flags, name, folder, env):
    (folder / "train.py").write_text(textwrap.dedent(PROGRAMS[name]))
    same([*flags, "train.py"], folder, env)


@pytest.mark.parametrize("command", [["-m", "pkg"], ["./train.py"], ["-m", "absent"], ["{folder}/link.py", "-x"]])
def test_ways_to_say_it(command, folder, env):
    (folder / "pkg").mkdir()
    for name in ("pkg/__init__.py", "pkg/__main__.py", "train.py", "real/target.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("import sys; print(__file__, __name__, sys.argv, sys.path[0]); {}['x']")
    (folder / "link.py").symlink_to("real/target.py")
    same([word.format(folder=folder) for word in command], folder, env)


def test_ranks_differ_in_what_is_random(folder, env):
    (folder / "train.py").write_text("import random, uuid, tempfile, multiprocessing.process as p\n"
                                     "print(random.random(), uuid.uuid4(), p.current_process().authkey)\n")
    zygote = driver.Zygote(["train.py"], folder, env, spares=3)
    try:
        assert len({zygote.run()[1] for _ in range(3)}) == 3
    finally:
        zygote.close()


def test_imports_of_the_first_start_are_learned(folder, env):
    """Those in functions too, and those of the program itself are left alone."""
    (folder / "train.py").write_text(textwrap.dedent("""
        import sys, time, helper
        def main():
            import xml.dom.minidom, sub.deep
            print("up", "xml.dom.minidom" in BEFORE, "sub.deep" in BEFORE, "helper" in BEFORE, flush=True)
            time.sleep(1000)
        BEFORE = set(sys.modules) - {"helper"}
        main()
        """))
    first = subprocess.Popen([sys.executable, "train.py"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "up False False False\n"
        zygote = driver.Zygote(["train.py"], folder, env, of=first.pid)
    finally:
        first.kill()
        first.wait()
    try:
        pid, (out, _) = zygote.start()
        assert out.readline() == b"up True False False\n", zygote.prepared
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        zygote.close()


def test_imports_that_come_later_make_new_spares(folder, env):
    (folder / "train.py").write_text("import sys, time\nprint('wave' in sys.modules, flush=True)\n"
                                     "sys.stdin.readline()\n__import__('wave')\nprint('late', flush=True)\ntime.sleep(1000)\n")
    first = subprocess.Popen([sys.executable, "train.py"], cwd=folder, env=env, stdout=subprocess.PIPE,
                             stdin=subprocess.PIPE, text=True)
    first.stdout.readline()
    zygote = driver.Zygote(["train.py"], folder, env, of=first.pid)
    try:
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.stdout.readline() == "late\n"
        assert "prepared" in driver.receive(zygote.control)[0]
        old, (pid, line) = zygote.spares.pop(), zygote.spare()
        old[1].close()
        assert os.waitpid(old[0], 0)[1] == 0, "a spare that is not needed any more ends by itself"
        zygote.spares.append((pid, line))
        pid, (out, _) = zygote.start()
        assert out.readline() == b"True\n"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        first.kill()
        first.wait()
        zygote.close()


@pytest.mark.parametrize("top, warm", [
    ("import os\nos.environ['COLOUR'] = 'red'\nimport wave", True),  # plain: the zygote has it while it imports
    ("import os\nos.environ.setdefault('COLOUR', 'red')\nimport wave", True),
    ("import os\nos.environ['COLOUR'] = str(1)\nimport wave", False),  # anything: what follows may depend on it
    ("import os\nos.environ.update(COLOUR='red')\nimport wave", False),
    ("import os\nif os.environ.get('RANK') == '0':\n    os.environ['X'] = 'y'\nimport wave", False),
])
def test_the_environment_that_imports_see(top, warm, folder, env):
    (folder / "train.py").write_text(f"import sys\nBEFORE = 'wave' in sys.modules\n{top}\n"
                                     "print(BEFORE, os.environ.get('COLOUR'))\n")
    code, out, _ = driver.warm(["train.py"], folder, env)
    assert (code, out.split()[0]) == (0, str(warm))
    assert out.split()[1] == driver.cold(["train.py"], folder, env)[1].split()[1]


def test_a_spare_refuses_what_its_imports_have_not_seen(folder, env):
    (folder / "train.py").write_text("import pydoc\n")  # reads PYTHONDOCS at its import
    zygote = driver.Zygote(["train.py"], folder, env, spares=4)
    try:
        assert zygote.start({**env, "RANK": "1"})[0] is not None
        assert "PYTHONDOCS" in zygote.start({**env, "PYTHONDOCS": "x"})[1]
        assert "OMP_NUM_THREADS" in zygote.start({**env, "OMP_NUM_THREADS": "2"})[1]
        zygote.folder = "/"
        assert "folder" in zygote.start()[1]
    finally:
        zygote.close()


def test_threads_are_not_forked(folder, env):
    (folder / "train.py").write_text("import antigravity_of_ours, threading\nprint(threading.active_count())\n")
    # A library (it is found in the user's site folder) that starts a thread when it is imported.
    home = folder / "home"
    user = subprocess.run([sys.executable, "-c", "import site; print(site.getusersitepackages())"], text=True,
                          env={**env, "HOME": str(home), "PYTHONUSERBASE": str(home)}, capture_output=True).stdout.strip()
    pathlib.Path(user).mkdir(parents=True)
    (pathlib.Path(user) / "antigravity_of_ours.py").write_text(
        "import threading\nE = threading.Event()\nthreading.Thread(target=E.wait, daemon=True).start()\n")
    env = {**env, "PYTHONUSERBASE": str(home)}
    if driver.cold(["train.py"], folder, env)[0] != 0:
        pytest.skip("this interpreter has no user site")
    zygote = driver.Zygote(["train.py"], folder, env, spares=2)
    assert not zygote.prepared["forks"] and "threads" in zygote.prepared["why"]
    assert zygote.spares[0][0] == zygote.process.pid, "the zygote is the only spare"
    pid, (out, _) = zygote.start()
    assert out.read() == b"2\n"
    assert zygote.process.wait() == 0


def test_no_zygote_outlives_its_launcher(folder, env):
    (folder / "train.py").write_text("import time\ntime.sleep(1000)\n")
    zygote = driver.Zygote(["train.py"], folder, env)
    zygote.control.close()
    assert zygote.process.wait(driver.PATIENCE) == 0
    pid, line = zygote.spares[0]
    line.close()
    assert os.waitpid(pid, 0)[1] == 0
