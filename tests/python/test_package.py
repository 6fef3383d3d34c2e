"""The Python package `trainyard`, against a launcher that is played here."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60


class Launcher:
    """Listens as the launcher does, and speaks to one rank."""

    def __init__(self, folder, program, python=sys.executable, **env):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "launcher.sock"))
        self.listener.listen()
        self.listener.settimeout(PATIENCE)
        (folder / "train.py").write_text(textwrap.dedent(program))
        self.process = subprocess.Popen(
            [python, "train.py"], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "worker/python"), "PYTHONUNBUFFERED": "1", "RANK": "3",
                 "TRAINYARD_GENERATION": "1", "TRAINYARD_LAUNCHER_SOCKET": str(folder / "launcher.sock"), **env},
        )
        self.lines = None

    def accept(self):
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE)
        self.connection, self.lines = connection, connection.makefile("r")
        return self.hear()["hello"]

    def hear(self):
        line = self.lines.readline()
        return json.loads(line) if line else None

    def say(self, **message):
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def printed(self):
        return self.process.stdout.readline().strip()

    def end(self):
        out, error = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, error


@pytest.fixture
def launcher(tmp_path):
    started = []

    def start(program, **options):
        started.append(Launcher(tmp_path, program, **options))
        return started[-1]
    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def test_without_a_launcher_it_does_nothing(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent("""
        import trainyard
        trainyard.step(1, loss=0.5)
        with trainyard.checkpointing(), trainyard.evaluating():
            trainyard.step()
        print(trainyard.run(lambda x, y: x + y, 1, y=2), trainyard.generation())
        """))
    for extra in ({}, {"RANK": "0", "TRAINYARD_LAUNCHER_SOCKET": str(tmp_path / "absent")}):
        done = subprocess.run([sys.executable, "-W", "error", "train.py"], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT / "worker/python"), **extra})
        assert (done.returncode, done.stdout, done.stderr) == (0, "3 0\n", "")


def test_steps_and_phases_are_told(launcher):
    rank = launcher("""
        import time, trainyard
        trainyard.step(7, loss=0.5, bad=float("nan"))
        for n in range(8, 1000):
            trainyard.step(n)
        with trainyard.evaluating():
            with trainyard.checkpointing():
                pass
        time.sleep(0.06)
        trainyard.step(loss="wrong")
        time.sleep(0.06)
        trainyard.step()
        """)
    hello = rank.accept()
    assert (hello["rank"], hello["generation"], hello["pid"]) == (3, 1, rank.process.pid)
    assert hello["cooperates"] is False
    assert rank.hear() == {"step": {"step": 7, "metrics": {"loss": 0.5}}}
    said = []
    while (message := rank.hear()) is not None:
        said.append(message)
    phases = [message["phase"] for message in said if "phase" in message]
    assert phases == ["evaluate", "checkpoint", "evaluate", "train"]
    steps = [message["step"]["step"] for message in said if "step" in message]
    assert len(steps) < 500 and steps[-1] == 1001
    code, _, error = rank.end()
    assert code == 0 and error.count("trainyard.step") == 1


def test_a_launcher_that_does_not_listen_holds_nobody_up(launcher):
    rank = launcher("""
        import time, trainyard
        trainyard.step(1)
        began, n = time.monotonic(), 0
        while n < 20000:
            trainyard._line._line.told = 0
            n += 1
            trainyard.step(n, a=1.0, b=2.0)
        print("done")
        """)
    rank.accept()
    assert rank.printed() == "done"
    assert rank.end()[0] == 0


def test_processes_that_a_rank_forks_are_no_ranks(launcher):
    rank = launcher("""
        import os, trainyard
        trainyard.step(1)
        pid = os.fork()
        trainyard.step(2)
        trainyard._line._line.told = 0
        trainyard.step(100 if pid == 0 else 3)
        if pid: os.waitpid(pid, 0)
        """)
    rank.accept()
    steps = []
    while (message := rank.hear()) is not None:
        steps.append(message["step"]["step"])
    assert steps == [1, 3]


def test_stacks_can_be_had_from_a_rank_that_is_blocked(launcher):
    rank = launcher("""
        import time, trainyard
        def stuck():
            print("up")
            time.sleep(1000)
        trainyard.step(1)
        stuck()
        """)
    hello = rank.accept()
    assert rank.printed() == "up"
    os.kill(rank.process.pid, hello["stacksSignal"])
    path = f"/proc/{rank.process.pid}/fd/{hello['stacks']}"
    text = ""
    while "in <module>" not in text:
        assert rank.process.poll() is None
        text = pathlib.Path(path).read_text()
    assert "in stuck" in text


RUN = """
    import os, sys, time, trainyard
    def train(name):
        print("train", name, os.environ["RANK"], trainyard.generation(), flush=True)
        what = os.environ["WHAT"]
        if what == "sleep":
            time.sleep(1000)
        if what == "spin":
            while True: pass
        if what == "swallow":
            while True:
                try: time.sleep(1000)
                except Exception: print("swallowed")
        if what == "broken":
            raise RuntimeError("connection closed by peer")
        if what == "own":
            raise ValueError("mine")
        return "result of " + name
    print(trainyard.run(train, "x"))
    """


@pytest.mark.parametrize("what", ["sleep", "spin", "swallow", "broken"])
def test_the_next_generation_is_in_the_same_process(what, launcher):
    rank = launcher(RUN, WHAT=what)
    assert rank.accept()["cooperates"] is True
    assert rank.printed() == "train x 3 1"
    rank.say(interrupt={"generation": 1})
    assert rank.hear()["waiting"]["generation"] == 1
    rank.say(generation={"generation": 2, "env": {"RANK": "1", "TRAINYARD_GENERATION": "2", "WHAT": "end"}})
    hello = rank.hear()["hello"]
    assert (hello["rank"], hello["generation"], hello["cooperates"]) == (1, 2, True)
    code, out, error = rank.end()
    assert (code, out, error) == (0, "train x 1 2\nresult of x\n", "")


@pytest.mark.parametrize("what", ["end", "own"])
def test_what_comes_after_it_cannot_be_interrupted(what, launcher):
    rank = launcher(RUN, WHAT=what)
    assert rank.accept()["cooperates"] is True
    hello = rank.hear()["hello"]
    assert (hello["rank"], hello["generation"], hello["cooperates"]) == (3, 1, False)
    rank.end()


def test_orders_for_generations_that_are_over_are_stale(launcher):
    rank = launcher(RUN, WHAT="sleep", TRAINYARD_GENERATION="5")
    rank.accept()
    assert rank.printed() == "train x 3 5"
    rank.say(interrupt={"generation": 4})
    rank.say(generation={"generation": 5, "env": {"TRAINYARD_GENERATION": "5", "WHAT": "end"}})
    rank.say(interrupt={"generation": 5})
    assert rank.hear()["waiting"]["generation"] == 5
    rank.say(generation={"generation": 7, "env": {"TRAINYARD_GENERATION": "7", "WHAT": "end"}})
    assert rank.end()[1] == "train x 3 7\nresult of x\n"


@pytest.mark.parametrize("what, words", [("own", "ValueError: mine"), ("broken", "RuntimeError: connection closed")])
def test_a_failure_of_its_own_ends_the_rank(what, words, launcher):
    rank = launcher(RUN, WHAT=what)
    rank.accept()
    code, _, error = rank.end()
    assert code == 1 and words in error


def test_a_rank_whose_launcher_is_gone_ends(launcher):
    rank = launcher(RUN, WHAT="sleep")
    rank.accept()
    assert rank.printed() == "train x 3 1"
    rank.say(interrupt={"generation": 1})
    rank.hear()
    rank.lines.close()
    rank.connection.close()
    code, _, error = rank.end()
    assert code == 1 and "Interrupted: generation 1 is over" in error


def test_a_collective_is_left(launcher, tmp_path):
    """With real PyTorch: rank 0 waits in an all-reduce for a rank that never comes."""
    bin = os.environ.get("TORCH_BIN")
    if not bin:
        pytest.skip("TORCH_BIN names no interpreter with torch")
    rank = launcher("""
        import os, trainyard, torch, torch.distributed as dist
        def train():
            store = dist.FileStore("store%d" % trainyard.generation(), int(os.environ["WORLD_SIZE"]))
            dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
            print("joined", flush=True)
            x = torch.ones(4)
            dist.all_reduce(x)
            print("reduced", x.tolist(), flush=True)
        if os.environ["RANK"] == "0":
            trainyard.run(train)
        else:
            store = dist.FileStore("store1", 2)
            dist.init_process_group("gloo", store=store, rank=1, world_size=2)
            import time; time.sleep(1000)
        """, python=os.path.join(bin, "python"), RANK="0", WORLD_SIZE="2", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    peer = subprocess.Popen([os.path.join(bin, "python"), "train.py"], cwd=tmp_path,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "worker/python"), "RANK": "1", "WORLD_SIZE": "2",
                                 "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    try:
        rank.accept()
        assert rank.printed() == "joined"
        rank.say(interrupt={"generation": 1})
        waiting = rank.hear()
        assert waiting is not None, rank.end()
        assert waiting["waiting"]["generation"] == 1
        rank.say(generation={"generation": 2, "env": {"WORLD_SIZE": "1", "TRAINYARD_GENERATION": "2"}})
        code, out, error = rank.end()
        assert (code, out) == (0, "joined\nreduced [1.0, 1.0, 1.0, 1.0]\n"), error
    finally:
        peer.send_signal(signal.SIGKILL)
        peer.wait()
