"""A rank that keeps its own record of what it did, to be compared with what the control plane says of it.

It writes each line to a file of its own before it prints it, holds a lock that a second rank of its number would find taken,
and ends as its environment says: FAIL_ONCE=N:CODE makes rank N end with CODE in its first start, once all are there.
"""

import contextlib
import fcntl
import os
import pathlib
import signal
import sys
import time

truth = pathlib.Path(os.environ["TRUTH"])
rank, world = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
lock = open(truth / f"rank{rank}.lock", "w")
deadline = time.monotonic() + 5
while True:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except OSError:
        # One that was killed may take a moment to be gone.
        if time.monotonic() > deadline:
            (truth / "double").write_text(f"rank {rank}, pid {os.getpid()}\n")
            sys.exit(99)
        time.sleep(0.01)
generation = os.environ["TRAINYARD_GENERATION"]
(truth / f"rank{rank}.there-{generation}").touch()


start = 0


@contextlib.contextmanager
def in_one_piece():
    """`stop` would end it between its own record and what it does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def line(text):
    with in_one_piece(), open(truth / f"rank{rank}.lines", "a") as lines:
        lines.write(text + "\n")
        lines.flush()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def stop(*_):
    if start:
        line(f"rank {rank} start {start} stopped")
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
# As at a rendezvous: nobody begins before all of its generation are there. One that is ended here has done nothing yet.
while len(list(truth.glob(f"*.there-{generation}"))) < world:
    time.sleep(0.01)
with in_one_piece(), open(truth / f"rank{rank}.starts", "a+") as starts:
    starts.write(f"{os.getpid()} {generation}\n")
    starts.flush()
    starts.seek(0)
    start = len(starts.readlines())
fails, _, code = os.environ.get("FAIL_ONCE", ":").partition(":")
for i in range(int(os.environ["LINES"])):
    line(f"rank {rank} start {start} line {i}")
    if start == 1 and fails == rank:
        # Once all work.
        while len(list(truth.glob("*.starts"))) < world:
            time.sleep(0.01)
        line(f"rank {rank} start {start} fails")
        sys.exit(int(code))
    time.sleep(0.02)
line(f"rank {rank} start {start} done")
