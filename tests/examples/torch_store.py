"""Run by test_pytorch.py in the ranks of `trainyard launch`: torch's own store clients against the launcher's store."""

import datetime
import os

import torch.distributed as dist

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"


def client():
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False,
                         wait_for_workers=False, timeout=datetime.timedelta(seconds=60))


def one_client(store):
    store.set("k", "v")
    assert store.get("k") == b"v"
    assert store.add("n", 3) == 3 and store.add("n", -5) == -2
    assert store.compare_set("z", "", "w") == b"w" and store.compare_set("absent", "a", "w") == b"a"
    assert store.compare_set("z", "w", "x") == b"x" and store.compare_set("z", "w", "y") == b"x"
    assert store.check(["k", "z"]) and not store.check(["k", "absent"])
    store.append("k", "w")
    store.multi_set(["a", "b"], ["1", "2"])
    assert store.multi_get(["a", "b", "k"]) == [b"1", b"2", b"vw"]
    assert store.delete_key("a") and not store.delete_key("a")
    assert {"b", "k", "n", "z"} <= set(store.list_keys())
    assert store.num_keys() == len(store.list_keys())
    try:
        store.wait(["absent"], datetime.timedelta(milliseconds=50))
        raise AssertionError("a key that is absent was not waited for")
    except dist.DistStoreError:
        pass
    store.queue_push("q", "1")
    store.queue_push("q", "2")
    assert store.queue_len("q") == 2 and store.queue_pop("q") == b"1" and store.queue_pop("q", False) == b"2"
    try:
        store.queue_pop("q", False)
        raise AssertionError("an empty queue gave something")
    except dist.QueueEmptyError:
        pass
    large = "x" * 4_000_000
    store.set("large", large)
    assert store.get("large") == large.encode()
    store.clone().set("cloned", "1")
    assert store.get("cloned") == b"1"


store = client()
if rank == 0:
    one_client(store)
prefixed = dist.PrefixStore("prefix", store)
prefixed.set(str(rank), str(rank * rank))
assert [int(prefixed.get(str(other))) for other in range(world)] == [other * other for other in range(world)]
for _ in range(2):
    store.barrier("all", world, datetime.timedelta(seconds=60))
dist.init_process_group("gloo")
objects = [None] * world
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": other} for other in range(world)]
dist.barrier()
dist.monitored_barrier()
dist.destroy_process_group()
print(f"rank {rank}: store ok", flush=True)
