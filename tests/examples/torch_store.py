"""Run by test_pytorch.py in the ranks of `trainyard launch`: torch's own store clients against the launcher's store."""

import datetime
import os
from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist
from torch.distributed import distributed_c10d

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


def waits(store):
    """A wait that ran out is cancelled, and the connection goes on; one that is answered ends at once."""
    for _ in range(3):
        try:
            store.wait(["never", "either"], datetime.timedelta(milliseconds=20))
            raise AssertionError("keys that are absent were not waited for")
        except dist.DistStoreError:
            pass
        assert store.add("after", 0) == 0
    other = client()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.wait, ["late", "later"], datetime.timedelta(seconds=60))
        store.set("late", "1")
        store.set("later", "1")
        waiting.result(timeout=60)
    # A queue: who pops waits for who pushes.
    with ThreadPoolExecutor(1) as pool:
        popped = pool.submit(other.queue_pop, "slow")
        store.queue_push("slow", "x")
        assert popped.result(timeout=60) == b"x"


def prefixes(store):
    one, other = dist.PrefixStore("one", store), dist.PrefixStore("other", store)
    one.set("k", "1")
    other.multi_set(["k", "l"], ["2", "3"])
    assert one.get("k") == b"1" and other.multi_get(["k", "l"]) == [b"2", b"3"] and store.get("one/k") == b"1"
    assert one.check(["k"]) and not one.check(["l"])
    assert one.add("n", 2) == 2 and one.compare_set("k", "1", "4") == b"4"
    one.append("k", "5")
    one.wait(["k", "n"], datetime.timedelta(seconds=60))
    assert one.get("k") == b"45" and one.delete_key("k") and not one.check(["k"])
    nested = dist.PrefixStore("inner", one)
    nested.set("k", "6")
    assert store.get("one/inner/k") == b"6"


def many_clients(count=64):
    """Each a connection of its own, all at once; and the largest values that there are."""
    with ThreadPoolExecutor(16) as pool:
        clients = list(pool.map(lambda _: client(), range(count)))
        sums = list(pool.map(lambda each: each.add("many", 1), clients))
        assert sorted(sums) == list(range(1, count + 1))
        large = bytes(range(256)) * (7 << 12)
        clients[0].set("largest", large)
        assert all(pool.map(lambda each: each.get("largest") == large, clients[:16]))


store = client()
if rank == 0:
    one_client(store)
    waits(store)
    prefixes(store)
    many_clients()
prefixed = dist.PrefixStore("prefix", store)
prefixed.set(str(rank), str(rank * rank))
assert [int(prefixed.get(str(other))) for other in range(world)] == [other * other for other in range(world)]
for _ in range(2):
    store.barrier("all", world, datetime.timedelta(seconds=60))
dist.init_process_group("gloo")
# As torch itself does it where nothing else can tell that all are there.
distributed_c10d._store_based_barrier(rank, store, "tests", world, datetime.timedelta(seconds=60))
objects = [None] * world
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": other} for other in range(world)]
dist.barrier()
dist.monitored_barrier()
dist.destroy_process_group()
print(f"rank {rank}: store ok", flush=True)
