"""Hangs of real PyTorch ranks under `trainyard launch`, in scripts that know nothing of it."""

import json
import os
import re
import signal
import subprocess
import textwrap

import pytest

from conftest import TRAINYARD, eventually

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
    for step in range(100_000 if what == "slow" else 60):
        dist.all_reduce(torch.ones(10))
        time.sleep(0.05)
        if rank == 0:
            print(f"step={step}", flush=True)
        if step == 30 and what == "sleep" and rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            fetch()
        if what == "slow" and rank == 2:
            time.sleep(0.15)
        if step == 30 and what == "stop" and rank == 1:
            print("stopping", os.getpid(), flush=True)
            os.kill(os.getpid(), 19)
        if step % 20 == 10 and what == "evaluate" and rank == 0:
            end = time.monotonic() + 7
            while time.monotonic() < end:
                torch.randn(100, 100) @ torch.randn(100, 100)
    print("done", rank, flush=True)
    dist.destroy_process_group()

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
    process = launch("sleep", "--max-restarts", "1", "--on-hang", "restart", "--spares", "auto")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "generation 1: rank 1 failed: it hangs in `time.sleep(1000)` in fetch (" in out
    assert all(f"done {rank}" in out for rank in range(3))


def test_a_rank_that_makes_the_others_wait_is_named(launch):
    text = until(launch("slow"), "makes the others wait")
    assert re.search(r"trainyard: rank 2 on \S+ makes the others wait: its steps take [\d.]+ times as long as theirs", text)
    assert "hangs" not in text


def test_long_evaluations_are_no_hangs(launch):
    out, _ = launch("evaluate").communicate(timeout=300)
    assert "hangs" not in out and "wait for each other" not in out and "done 0" in out


PODS = """
import os, time
import torch
import torch.distributed as dist
import trainyard

def fetch():
    time.sleep(1000)

def main():
    dist.init_process_group("gloo")
    rank, step = dist.get_rank(), 0
    while True:
        step += 1
        time.sleep(0.2 if rank == 1 else 0.05)
        hang = torch.tensor([float(os.path.exists("hang"))])
        dist.all_reduce(hang)
        trainyard.step(step, loss=0.5, rank=rank)
        if hang.item() and rank == 1:
            fetch()

main()
"""


MISMATCH = """
import os, time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(40):
    dist.all_reduce(torch.ones(1))
    print(f"step={step}", flush=True)
    time.sleep(0.05)
    if step == 20 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        # Each waits for what the other one would send.
        dist.recv(torch.ones(1), 1 - rank)
dist.destroy_process_group()
"""


def test_ranks_of_several_pods_that_wait_for_each_other_are_started_again(server, namespace, tmp_path):
    """No launcher sees it alone."""
    (tmp_path / "train.py").write_text(MISMATCH)
    env = {"PATH": BIN + ":" + os.environ["PATH"]}
    spec = {"replicas": 2, "command": ["python", "train.py"], "workingDir": str(tmp_path), "env": env,
            "restartPolicy": "OnFailure", "recovery": {"spares": "off", "onHang": "restart"}}
    job = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "each"}, "spec": spec}
    server.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(job))

    def status():
        return server.get("trainingjob", "each", "-n", namespace).get("status", {})

    eventually(lambda: status().get("phase") == "Succeeded", "both went on together", 180)
    assert status()["restarts"] == 1
    failure = status()["lastFailure"]
    assert failure["cause"] == "hang" and "recv" in failure["message"], failure
    events = server.get("events", "-n", namespace)["items"]
    told = [event["message"] for event in events if event["reason"] == "RankHangs"]
    assert len(told) == 1 and told[0].startswith("Rank 0 on") and "it and 1 other rank wait for each other" in told[0], told


QUIET = """
import os, time
import torch
import torch.distributed as dist

def fetch():
    time.sleep(1000)

dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(1, 10_000):
    time.sleep(0.05)
    dist.all_reduce(torch.ones(1))
    if rank == 0:
        print(f"step={step}", flush=True)
    if step == 100 and rank == 3 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        fetch()
    if step == 300:
        break
dist.destroy_process_group()
"""


def test_a_hang_in_a_pod_that_prints_nothing_is_named(server, namespace, tmp_path):
    """Only rank 0 writes lines, and it is in another pod than the rank that hangs."""
    (tmp_path / "train.py").write_text(QUIET)
    env = {"PATH": BIN + ":" + os.environ["PATH"]}
    spec = {"replicas": 2, "procsPerReplica": 2, "command": ["python", "train.py"], "workingDir": str(tmp_path), "env": env,
            "restartPolicy": "OnFailure", "recovery": {"spares": "off", "onHang": "restart"}}
    job = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "quiet"}, "spec": spec}
    server.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(job))

    def status():
        return server.get("trainingjob", "quiet", "-n", namespace).get("status", {})

    eventually(lambda: status().get("phase") == "Succeeded", "it was started again, and got through", 180)
    failure = status()["lastFailure"]
    assert status()["restarts"] == 1 and failure["cause"] == "hang", failure
    assert failure["rank"] == 3 and "time.sleep(1000)" in failure["message"], failure


def test_ranks_in_several_pods_are_told_apart(server, namespace, tmp_path):
    """Each launcher sees its own ranks only. The program prints nothing: its steps are told, and so are its numbers."""
    (tmp_path / "train.py").write_text(PODS)
    env = {"PATH": BIN + ":" + os.environ["PATH"]}
    spec = {"replicas": 2, "command": ["python", "train.py"], "workingDir": str(tmp_path), "env": env, "recovery": {"spares": "off"}}
    job = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "pods"}, "spec": spec}
    server.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(job))

    def status(field):
        return server.get("trainingjob", "pods", "-n", namespace).get("status", {}).get(field)

    progress = eventually(lambda: (status("progress") or {}).get("step") and status("progress"), "its steps are known", 180)
    assert progress["metrics"] == {"loss": 0.5, "rank": 0}
    slow = eventually(lambda: status("stragglers"), "the slow rank is named", 180)
    assert [rank["rank"] for rank in slow] == [1] and slow[0]["slowdown"] >= 1.5 and slow[0]["host"], slow
    text = server.trainyard("explain", "trainingjob/pods", "-n", namespace).stdout
    assert "rank 1 on" in text and "makes the others wait" in text
    assert "trainyard_rendezvous_stragglers_total 1" in server.kubectl("get", "--raw", "/metrics").stdout

    (tmp_path / "hang").touch()
    eventually(lambda: len(status("stalled") or []) == 2, "both ranks stand still", 120)
    assert status("message").startswith("rank 1 on") and "; rank 0 waits for it" in status("message")
    assert [(rank["rank"], rank["inCollective"]) for rank in status("stalled")] == [(1, False), (0, True)]
    explained = server.trainyard("explain", "trainingjob/pods", "-n", namespace).stdout
    assert "rank 1 on" in explained and "rank 0 on" not in explained and "rank 0 waits for it" in explained, explained
    assert "time.sleep(1000)" in next(rank["waitsIn"] for rank in status("stalled") if rank["rank"] == 1)
    events = server.get("events", "-n", namespace)["items"]
    blamed = {event["message"].split(" on ")[0] for event in events if event["reason"] == "RankHangs"}
    assert blamed == {"Rank 1"}
    # What is told aside is no output.
    assert server.trainyard("logs", "pods", "-n", namespace).stdout.strip().count("step") == 0
