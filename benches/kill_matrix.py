"""Trains a small network with DDP over gloo, the same way each time, and writes down what happens when.

The loss of step n depends on n, the rank and the world's size alone: a run that was interrupted must give the same curve, bit
for bit. Each rank appends one line per event to FOLDER/rank-R.log: `seconds generation pid event [step]`. What is to go wrong
from inside is in FOLDER/fault: `KIND RANK [ARGUMENT]`; whoever is meant takes the file away first, so it happens once.
"""

import argparse
import glob
import os
import resource
import struct
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--folder", required=True)
arguments.add_argument("--steps", type=int, required=True)
arguments.add_argument("--checkpoint-every", type=int, default=10)
arguments.add_argument("--step-ms", type=float, default=50)
given = arguments.parse_args()

RANK = int(os.environ["RANK"])
GENERATION = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
log = os.open(os.path.join(given.folder, f"rank-{RANK}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
slow_ms = 0.0


def note(event, step=""):
    os.write(log, f"{time.time():.6f} {GENERATION} {os.getpid()} {event} {step}\n".encode())


def fault(*kinds):
    """The argument of a fault that is this rank's, if it is one of these."""
    path = os.path.join(given.folder, "fault")
    try:
        words = open(path).read().split()
    except OSError:
        return None
    if len(words) < 2 or words[0] not in kinds or int(words[1]) != RANK:
        return None
    os.unlink(path)
    note("fault")
    return words


def own_group():
    """The folder of this process's control group for memory, and the name of its limit there."""
    for line in open("/proc/self/cgroup"):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if "memory" in controllers.split(","):
            return "/sys/fs/cgroup/memory" + path, "memory.limit_in_bytes"
        if not controllers and os.path.exists("/sys/fs/cgroup" + path + "/cgroup.subtree_control"):
            return "/sys/fs/cgroup" + path, "memory.max"
    raise OSError("there is no control group for memory")


def confine(limit):
    """Into a control group of its own, where it may take so much from now on. Needs root."""
    parent, name = own_group()
    for group in glob.glob(parent + "/kill-matrix-*"):
        try:
            os.rmdir(group)
        except OSError:
            pass
    group = f"{parent}/kill-matrix-{os.getpid()}"
    os.mkdir(group)
    for file, value in ((name, limit), ("cgroup.procs", os.getpid())):
        with open(f"{group}/{file}", "w") as out:
            out.write(str(value))


def go_wrong():
    global slow_ms
    match fault("exit", "memory", "oom", "slow"):
        case ["oom", _]:
            # What it holds already is charged elsewhere.
            confine(32 << 20)
            hoard = []
            while True:
                hoard.append(b"x" * (8 << 20))
        case ["exit", _, code]:
            os._exit(int(code))
        case ["memory", _]:
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
            hoard = []
            while True:
                hoard.append(bytearray(64 << 20))
        case ["slow", _, ms]:
            slow_ms = float(ms)


note("start")
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

note("imported")
torch.set_num_threads(1)
if fault("never"):
    time.sleep(100_000)
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
note("joined")

torch.manual_seed(7)
network = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 1))
model = torch.nn.parallel.DistributedDataParallel(network)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
newest = os.path.join(given.folder, "checkpoint.pt")
step = 0
if os.path.exists(newest):
    saved = torch.load(newest)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    step = saved["step"]
note("resumed", step)
# Nobody may write a newer checkpoint while another still reads.
dist.barrier()
random = torch.Generator()

while step < given.steps:
    began = time.monotonic()
    go_wrong()
    step += 1
    random.manual_seed(step * 1000 + RANK)
    inputs = torch.randn(32, 64, generator=random)
    loss = (model(inputs) - inputs.sum(1, keepdim=True).sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if RANK == 0:
        mean /= dist.get_world_size()
        note("step", f"{step} {struct.pack('>f', mean.item()).hex()}")
        if step % 10 == 0:
            print(f"step={step}/{given.steps} loss={mean.item():.6f}", flush=True)
        if step % given.checkpoint_every == 0:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, newest + ".part")
            os.replace(newest + ".part", newest)
    else:
        note("step", step)
    time.sleep(max(0, (given.step_ms + slow_ms) / 1000 - (time.monotonic() - began)))

note("done", step)
dist.destroy_process_group()
sys.exit(0)
