"""Warm starts of real PyTorch programs. TORCH_BIN names the folder of an interpreter with torch."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import driver  # noqa: E402
from conftest import free_port  # noqa: E402

BIN = os.environ.get("TORCH_BIN")
pytestmark = pytest.mark.skipif(not BIN, reason="TORCH_BIN names no interpreter with torch")

PROGRAM = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(7)
    data = TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = []
    for epoch in range(2):
        for x, y in DataLoader(data, batch_size=16, num_workers=2, multiprocessing_context=sys.argv[1]):
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item().hex())
    print("losses", rank, losses, torch.get_num_threads(), torch.initial_seed(), flush=True)
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
    if "stay" in sys.argv:
        import time
        time.sleep(1000)
"""


def environment(rank, port, threads):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo", "RANK": str(rank),
            "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.mark.parametrize(("workers", "threads"), [("fork", "2"), ("spawn", "1")])
def test_ranks_from_one_zygote_train_together_as_cold_ones_do(workers, threads, tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(PROGRAM))
    python, command = os.path.join(BIN, "python"), ["train.py", workers]
    port = free_port()
    cold = [subprocess.Popen([python, *command, "stay"], cwd=tmp_path, env=environment(rank, port, threads), text=True,
                             stdout=subprocess.PIPE) for rank in range(2)]
    try:
        expected = [rank.stdout.readline() for rank in cold]
        base = {name: value for name, value in environment(0, 0, threads).items() if name not in ("RANK", "LOCAL_RANK")}
        zygote = driver.Zygote(command, tmp_path, base, spares=2, of=cold[0].pid, python=python)
    finally:
        for rank in cold:
            rank.kill()
            rank.wait()
    try:
        assert zygote.prepared["forks"], zygote.prepared
        port = free_port()
        started = [zygote.start(environment(rank, port, threads)) for rank in range(2)]
        assert all(pid for pid, _ in started), started
        assert [out.readline().decode() for _, (out, _) in started] == expected
        for pid, (_, error) in started:
            assert os.waitpid(pid, 0)[1] == 0, error.read().decode()
    finally:
        zygote.close()


def test_what_is_imported_at_the_first_step_is_learned(tmp_path):
    """An optimizer imports half of torch when it is made; a warm rank finds all of it done."""
    (tmp_path / "train.py").write_text(textwrap.dedent("""
        import sys, time
        def main():
            import torch
            before = len(sys.modules)
            model = torch.nn.Linear(2, 2)
            torch.optim.SGD(model.parameters(), lr=0.1)
            print(len(sys.modules) - before, flush=True)
            time.sleep(1000)
        main()
        """))
    python = os.path.join(BIN, "python")
    env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([python, "train.py"], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE)
    try:
        assert int(first.stdout.readline()) > 100
        zygote = driver.Zygote(["train.py"], tmp_path, env, of=first.pid, python=python)
    finally:
        first.kill()
        first.wait()
    try:
        pid, (out, _) = zygote.start()
        assert int(out.readline()) == 0
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        zygote.close()
