"""The control plane is killed at random moments, again and again, while jobs of random shapes run: every job ends as it
would have, no rank runs twice, no line of a log and no exit code is lost, no process stays.

`TRAINYARD_SOAK_MINUTES=60` for a soak; `TRAINYARD_SEED` to repeat one (the moments, not the machine's timing).
"""

import json
import os
import pathlib
import random
import sys
import time

import truth
from conftest import Server, eventually

HERE = pathlib.Path(__file__).parent
MINUTES = float(os.environ.get("TRAINYARD_SOAK_MINUTES", "0.5"))
SEED = int(os.environ.get("TRAINYARD_SEED", random.randrange(1 << 32)))


class Job:
    def __init__(self, server, folder, name, chance):
        self.server, self.name, self.truth = server, name, folder / name
        self.truth.mkdir()
        self.replicas, self.procs = chance.choice([(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)])
        self.world = self.replicas * self.procs
        self.code = chance.choice([0, 0, 7])
        self.again = chance.random() < 0.5
        env = {"TRUTH": str(self.truth), "LINES": str(chance.randrange(10, 80))}
        if self.code:
            env["FAIL_ONCE"] = f"{chance.randrange(self.world)}:{self.code}"
        restart = {"restartPolicy": "OnFailure", "backoffLimit": 1} if self.again else {}
        self.manifest = json.dumps({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
            "spec": {"command": [sys.executable, str(HERE / "rank.py")], "env": env,
                     "replicas": self.replicas, "procsPerReplica": self.procs, **restart}})

    def status(self):
        return self.server.get("trainingjob", self.name).get("status", {})

    def ended(self):
        return self.status().get("phase") in ("Succeeded", "Failed")

    def check(self):
        status, fails = self.status(), self.code and not self.again
        assert status["phase"] == ("Failed" if fails else "Succeeded"), status
        assert status["exitCode"] == (self.code if fails else 0), status
        truth.check_never_double(self.truth)
        starts = 2 if self.code and self.again else 1
        # Also of pods that were ended with the job.
        logged = self.server.trainyard("logs", self.name).stdout
        for rank in range(self.world):
            made = truth.starts(self.truth, rank)
            assert made == starts, f"rank {rank} was started {made} times, not {starts}"
            mine = f"rank {rank} start {starts} "
            said, shown = truth.said_and_shown(self.truth, rank, mine, logged)
            # A rank that is killed may have written its own record and not yet printed.
            missing = said[len(shown):]
            assert shown == said[:len(shown)] and len(missing) <= (1 if fails else 0), f"rank {rank} lacks {missing}"


def test_killed_at_random_moments(tmp_path):
    chance = random.Random(SEED)
    print(f"TRAINYARD_SEED={SEED}")
    server = Server(tmp_path / "home").start()
    kills = jobs = 0
    until = time.monotonic() + MINUTES * 60

    def does(action, seconds=60):
        def attempt():
            if server.process.poll() is not None:
                server.start()
            return action()
        return eventually(attempt, f"{action.__name__}, {kills} kills, {jobs} jobs", seconds)

    try:
        while time.monotonic() < until:
            job = Job(server, tmp_path, f"job-{jobs}", chance)
            jobs += 1
            does(lambda: server.kubectl("apply", "-f", "-", input=job.manifest))
            for _ in range(chance.randrange(6)):
                time.sleep(chance.random() * 0.5)
                server.kill()
                kills += 1
                time.sleep(chance.random() * 0.2)
                server.start()
            does(job.ended)
            does(lambda: job.check() is None)
            does(lambda: server.kubectl("delete", "trainingjob", job.name, "--timeout=30s"))
    except BaseException as error:
        error.add_note(f"TRAINYARD_SEED={SEED}, {kills} kills, {jobs} jobs; server: {server.log()}")
        raise
    finally:
        server.stop()
    print(f"{kills} kills, {jobs} jobs")
    assert kills > 0
    eventually(lambda: not truth.processes(tmp_path), "no process is left")
