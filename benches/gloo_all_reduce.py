"""One gloo rank of `ring_vs_gloo`: reads `BYTES TIMES` lines, does that many all-reduces, prints microseconds for each."""

import os
import sys
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo")
print("ready", torch.__version__, flush=True)
for line in sys.stdin:
    size, times = map(int, line.split())
    data = torch.full((size // 4,), float(rank + 1))
    dist.all_reduce(data)
    assert data[0].item() == data[-1].item() == world * (world + 1) / 2
    data.zero_()
    dist.barrier()
    began = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(data)
    took = time.perf_counter() - began
    print(took / times * 1e6, flush=True)
dist.destroy_process_group()
