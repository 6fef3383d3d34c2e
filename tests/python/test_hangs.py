"""Hangs of real PyTorch ranks under `trainyard launch`, in scripts that know nothing of it."""

import os
import re
import signal
import subprocess
import textwrap

import pytest

from conftest import TRAINYARD

BIN = os.environ.get("TORCH_BIN")
pytestmark = pytest.mark.skipif(not BIN, reason="TORCH_BIN names no interpreter with torch")

PROGRAM = """
import os, sys, time
import torch
import torch.distributed as dist

def fetch():
    time.sleep(1000)

def main():
    dist.init_process_group("gloo")
    rank, what = dist.get_rank(), sys.argv[1]
    for step in range(60):
        dist.all_reduce(torch.ones(10))
        time.sleep(0.05)
        if rank == 0:
            print(f"step={step}", flush=True)
        if step == 30 and what == "sleep" and rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            fetch()
        if step == 30 and what == "stop" and rank == 1:
            print("stopping", os.getpid(), flush=True)
            os.kill(os.getpid(), 19)
        if step % 20 == 10 and what == "evaluate" and rank == 0:
            end = time.monotonic() + 7
            while time.monotonic() < end:
                torch.randn(100, 100) @ torch.randn(100, 100)
    print("done", rank, flush=True)

main()
"""


@pytest.fixture
def launch(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(PROGRAM))
    started = []

    def start(what, *flags, **env):
        env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PATH": BIN + ":" + os.environ["PATH"], **env}
        process = subprocess.Popen([TRAINYARD, "launch", "--nproc", "3", "--grace", "1", *flags, "--", "python", "train.py", what],
                                   cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started.append(process)
        return process
    yield start
    for process in started:
        process.kill()
        process.wait()


def until(process, words):
    """All lines up to the one that has these words."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return "".join(seen)
    raise AssertionError("".join(seen))


def test_a_rank_that_waits_for_something_else_is_named(launch):
    text = until(launch("sleep"), "wait for it")
    assert re.search(r"trainyard: rank 1 on \S+ hangs: no progress for [\d.]+ s, waits in `time.sleep\(1000\)` in fetch \(", text)
    assert re.search(r"trainyard: ranks 0, 2 wait for it in all_reduce \(torch/distributed/", text)


def test_a_rank_that_is_stopped_is_named_and_seen_again(launch):
    process = launch("stop")
    text = until(process, "wait for it")
    assert re.search(r"rank 1 on \S+ hangs: .*stopped by a signal", text)
    os.kill(int(re.search(r"stopping (\d+)", text).group(1)), signal.SIGCONT)
    text = until(process, "done 0")
    assert "rank 1 on" in text and "moves again" in text


def test_a_job_can_have_it_restarted(launch):
    process = launch("sleep", "--max-restarts", "1", TRAINYARD_ON_HANG="restart")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "generation 1: rank 1 failed: it hangs in `time.sleep(1000)` in fetch (" in out
    assert all(f"done {rank}" in out for rank in range(3))


def test_long_evaluations_are_no_hangs(launch):
    out, _ = launch("evaluate").communicate(timeout=300)
    assert "hangs" not in out and "wait for each other" not in out and "done 0" in out
