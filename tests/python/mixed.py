"""A rank of a training that does what trainings do: whatever happens here before `the hang` is no hang.

`python mixed.py MODE SECONDS SEED`, where MODE is how it tells of its steps: `leader` (rank 0 prints them), `all` (every rank
does), `words` (rank 0 prints a line without numbers now and then), `told` (`trainyard.step`, and pauses that are announced).
"""

import contextlib
import os
import random
import sys
import tempfile
import time

import torch
import torch.distributed as dist

import trainyard

MODE, SECONDS, SEED = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
TOLD = MODE == "told"
# The same on all ranks: what comes next, and for how long.
plan = random.Random(SEED)
# Its own: how uneven a rank is.
noise = random.Random(SEED * 1000 + RANK)
done = 0


def compute(seconds):
    end = time.monotonic() + seconds
    matrix = torch.randn(100, 100)
    while time.monotonic() < end:
        matrix = matrix @ matrix
        matrix /= matrix.norm()


def step(seconds=0.0, busy=0.0):
    """One step: work of its own, then the others'."""
    global done
    if busy:
        compute(busy)
    # Steps that take long do something meanwhile, if not much: no more than 4 % of a CPU.
    for _ in range(int(seconds / 0.3)):
        compute(0.012)
        time.sleep(0.288)
    time.sleep(seconds % 0.3)
    dist.all_reduce(torch.ones(1000))
    done += 1
    if MODE == "all":
        print(f'{{"step": {done}, "loss": {1 / done}}}', flush=True)
    elif MODE == "leader" and RANK == 0:
        print(f"step={done} loss={1 / done}", flush=True)
    elif MODE == "words" and RANK == 0 and done % 5 == 0:
        print("still training, and well", flush=True)
    elif TOLD:
        trainyard.step(done, loss=1 / done)


def steps(count, seconds):
    for _ in range(count):
        step(seconds() if callable(seconds) else seconds)


def fast():
    steps(plan.randint(200, 600), 0.005)


def usual():
    steps(plan.randint(50, 150), lambda: 0.05 + noise.random() * 0.05)


def busy():
    for _ in range(plan.randint(20, 60)):
        step(0.1, busy=0.03)


def slow():
    seconds = plan.uniform(0.8, 3)
    steps(plan.randint(4, 10), seconds)


def variable():
    steps(plan.randint(10, 40), lambda: min(plan.lognormvariate(-2.3, 1.0), 1.5))


def uneven():
    steps(plan.randint(30, 80), 0.15 if RANK == WORLD - 1 else 0.05)


def pace_changes():
    for seconds in (0.02, 0.5, 0.05, 1.2, 0.1):
        steps(plan.randint(8, 20), seconds)


def save_checkpoint(seconds):
    """To a file system that is slow and far away: nothing moves meanwhile."""
    with tempfile.NamedTemporaryFile() as file:
        torch.save({"weights": torch.zeros(1000)}, file)
        file.flush()
        os.fsync(file.fileno())
        time.sleep(seconds)


def checkpoint():
    usual()
    seconds = plan.uniform(0.5, 12)
    for _ in range(3):
        with trainyard.checkpointing() if TOLD else contextlib.nullcontext():
            if RANK == 0:
                save_checkpoint(seconds)
            dist.barrier()
        steps(10, 0.1)


def checkpoint_of_all():
    usual()
    seconds = plan.uniform(2, 10)
    with trainyard.checkpointing() if TOLD else contextlib.nullcontext():
        save_checkpoint(seconds + noise.random())
    steps(20, 0.05)


def evaluate():
    usual()
    seconds = plan.uniform(3, 8)
    for who in (0, None):
        with trainyard.evaluating() if TOLD else contextlib.nullcontext():
            if who is None or RANK == who:
                # As one that waits for data now and then.
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    compute(0.05)
                    time.sleep(0.2)
            dist.barrier()
        steps(20, 0.05)


def evaluate_silently():
    """Announced, and without any movement."""
    usual()
    if TOLD:
        with trainyard.evaluating():
            time.sleep(plan.uniform(3, 15))
    steps(20, 0.05)


class Data(torch.utils.data.Dataset):
    def __init__(self, slow):
        self.slow = slow

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.05)
        if index in self.slow:
            # A large file that must be decoded: the rank itself waits for its loader.
            end = time.monotonic() + 4
            while time.monotonic() < end:
                sum(range(50_000))
                time.sleep(0.02)
        return torch.zeros(8)


def loader_stalls():
    slow = {plan.randint(5, 38)}
    for _ in torch.utils.data.DataLoader(Data(slow if RANK == WORLD - 1 else ()), num_workers=1):
        step()


def short_stalls():
    """Nothing moves, but not for long."""
    for _ in range(5):
        steps(15, 0.03)
        if RANK == 1:
            time.sleep(plan.uniform(0.5, 1.2))
        else:
            plan.uniform(0.5, 1.2)


def begin():
    """Quiet: one is late, then all read what is far away."""
    if RANK == 1:
        time.sleep(8)
    dist.init_process_group("gloo")
    time.sleep(12)
    dist.barrier()
    time.sleep(6)


def main():
    torch.set_num_threads(1)
    begin()
    kinds = [fast, usual, busy, slow, variable, uneven, pace_changes, checkpoint, checkpoint_of_all, evaluate,
             evaluate_silently, loader_stalls, short_stalls]
    end = time.monotonic() + SECONDS
    again = torch.ones(1)
    while again.item():
        round_ = plan.sample(kinds, len(kinds))
        for kind in round_:
            if RANK == 0:
                print(f"# {time.strftime('%H:%M:%S')} after {done} steps: {kind.__name__}", flush=True)
            kind()
            again = torch.tensor([float(time.monotonic() < end)])
            dist.broadcast(again, 0)
            if not again.item():
                break
    usual()
    steps(20, 0.1)
    if RANK == 0:
        print("# the hang", flush=True)
        steps(20, 0.1)
    else:
        steps(20, 0.1)
    if RANK == 1:
        time.sleep(10_000)
    step()


main()
