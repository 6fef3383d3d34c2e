"""`trainyard torchrun` beside PyTorch's own: the same command lines and variables through both parsers, and real runs."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from conftest import TRAINYARD, eventually, free_port

TORCH = pathlib.Path(os.environ["TORCH_BIN"]) / "python" if "TORCH_BIN" in os.environ else None
HERE = pathlib.Path(__file__).parent

pytestmark = pytest.mark.skipif(TORCH is None, reason="TORCH_BIN names no Python with torch; tests/run sets it")

LINES = """
train.py
train.py --epochs 3 --nnodes 2 -m
--standalone train.py
--standalone --nproc-per-node=4 train.py a b
--nproc_per_node 2 train.py
--nproc-per-node cpu train.py
--nproc-per-node xyz train.py
--nproc-per-node 0 train.py
--nproc-per-node -2 train.py
--nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 1234 train.py
--nnodes=2 train.py
--nnodes=2 --node_rank=1 train.py
--nnodes 1:4 --rdzv-backend c10d --rdzv-endpoint host:29400 --rdzv-id job7 train.py
--nnodes 1:4 --rdzv_backend=c10d --rdzv_endpoint=host train.py
--nnodes 4:1 train.py
--nnodes 0 train.py
--nnodes 1:2:3 train.py
--nnodes x train.py
--nnodes 1 --master-port 29501 train.py
--master-addr [::1] --master-port 1 train.py
--rdzv-endpoint 10.0.0.1:29400 train.py
--rdzv-endpoint 10.0.0.1 train.py
--rdzv-endpoint 10.0.0.1:99999 train.py
--rdzv-endpoint 10.0.0.1:abc train.py
--rdzv-endpoint [::1]:29400 train.py
--rdzv-backend nosuch train.py
--rdzv-backend etcd-v2 --rdzv-endpoint e:2379 train.py
--rdzv-conf join_timeout=5,last_call_timeout=1 train.py
--rdzv-conf join_timeout train.py
--rdzv-conf =5 train.py
--rdzv-conf timeout=60 train.py
--max-restarts 3 train.py
--max-restarts=-1 train.py
--max-restarts -1 train.py
--max-restarts many train.py
--max-restarts
--monitor-interval 0.5 train.py
--monitor-interval x train.py
--start-method fork train.py
--start-method thread train.py
--event-log-handler console train.py
--role trainer train.py
-m package.train --lr 1
--module package.train
--no-python ./a.out 1 2
--no-python -m train
--run-path /abs/train.py x
--run-path --no-python /abs/train.py x
--log-dir /tmp -r 3 train.py
-r3 -t1 train.py
-r=3 train.py
-mr 3 package.train
-mr3 package.train
--redirects 0:3,1:1 --tee 1:2 train.py
--redirects 4 train.py
--redirects 0:3,10:1 train.py
--tee 0:4 train.py
--tee , train.py
--local-ranks-filter 0,2 train.py
--local-ranks-filter a train.py
--duplicate-stdout-filters a,b,,c --tee 3 train.py
--duplicate_stderr_filters x train.py
--local-addr 10.1.1.1 train.py
--logs-specs nosuch train.py
--numa-binding node train.py
--numa-binding some train.py
--signals-to-handle SIGTERM,SIGUSR1 train.py
--shutdown-timeout 5 train.py
--shutdown-timeout -5 train.py
--virtual-local-rank train.py
--nosuch train.py
-x train.py
--stand train.py
--standalone=1 train.py
--m train.py
--rdzv-e h:1 train.py
--nn 1 train.py
--use-env train.py
--legacy-launch train.py a --lr 1
--legacy-launch --nproc-per-node 2 -m package.train a
--legacy-launch --use-env train.py a
--legacy-launch --use_env train.py a
--legacy-launch --no-python ./a.out
--legacy-launch --no-python --use-env ./a.out 1
--legacy-launch --run-path /abs/train.py x
-- train.py --foo
train.py -- --foo
--nnodes 1 -- train.py
--role -x train.py
--role -1 train.py
- x
"""

VARIABLES = [
    ({"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "m", "PET_MASTER_PORT": "7"}, "train.py"),
    ({"PET_NNODES": "2", "PET_NODE_RANK": "1"}, "--nnodes 3 --node-rank 2 train.py"),
    ({"PET_NPROC_PER_NODE": "4"}, "train.py"),
    ({"PET_NPROC_PER_NODE": "4"}, "--nproc-per-node 2 train.py"),
    ({"PET_STANDALONE": "1", "PET_NNODES": "1"}, "train.py"),
    ({"PET_STANDALONE": "0"}, "train.py"),
    ({"PET_STANDALONE": "yes"}, "train.py"),
    ({"PET_MODULE": "1"}, "package.train"),
    ({"PET_M": "1"}, "package.train"),
    ({"PET_MAX_RESTARTS": " 3 "}, "train.py"),
    ({"PET_MAX_RESTARTS": "1_0"}, "train.py"),
    ({"PET_MAX_RESTARTS": "x"}, "train.py"),
    ({"PET_MAX_RESTARTS": "x"}, "--max-restarts 1 train.py"),
    ({"PET_MASTER_PORT": "x"}, "train.py"),
    ({"PET_START_METHOD": "nosuch"}, "train.py"),
    ({"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": "h:1", "PET_RDZV_ID": "7"}, "train.py"),
    ({"PET_LOCAL_RANKS_FILTER": "1"}, "train.py"),
    ({"PET_REDIRECTS": "3", "PET_TEE": "0:1"}, "train.py"),
    ({"PET_DUPLICATE_STDOUT_FILTERS": "a,b"}, "train.py"),
    ({"PET_SHUTDOWN_TIMEOUT": "9"}, "train.py"),
    ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9"}, "train.py"),
    ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9"}, "--shutdown-timeout 4 train.py"),
    ({"PET_LOGS_SPECS": "nosuch", "PET_NUMA_BINDING": "nosuch"}, "train.py"),
    ({"PYTHON_EXEC": "/opt/python"}, "train.py"),
    ({"PET_NNODES": ""}, "train.py"),
]

# What torchrun of Python 3.11 calls ambiguous because both spellings of one option match; later Pythons do not.
LENIENT = {"--rdzv-e h:1 train.py"}


def cases():
    lines = [line for line in LINES.strip().splitlines()]
    return [{"argv": line.split(), "env": {}} for line in lines] + \
        [{"argv": line.split(), "env": env} for env, line in VARIABLES]


def clean_env():
    return {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "TORCH", "TRAINYARD_"))}


def ours(case):
    done = subprocess.run([TRAINYARD, "torchrun", "--trainyard-plan", *case["argv"]], capture_output=True, text=True,
                          env={**clean_env(), **case["env"]}, timeout=60)
    if done.returncode != 0:
        assert done.returncode == 2 and "torchrun: " in done.stderr, done.stderr
        return {"refused": done.stderr.strip().splitlines()[0]}
    return json.loads(done.stdout)


def comparable(plan, cpus):
    if "refused" in plan:
        return "refused"
    plan = dict(plan)
    nproc = plan["nproc_per_node"]
    plan["nproc_per_node"] = cpus if nproc == "cpu" else int(nproc)
    command = plan["command"]
    if "runpy.run_path" in " ".join(command):
        command = ["run_path", *command[4:]]
    # torchrun takes its own interpreter, which has several names.
    name = os.path.basename(command[0])
    plan["command"] = ["python" if name.startswith("python") else name, *command[1:]]
    return plan


def test_every_command_line_means_the_same_to_both():
    table = cases()
    done = subprocess.run([TORCH, HERE / "torchrun_plan.py"], input=json.dumps(table), capture_output=True, text=True,
                          env=clean_env(), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    cpus = len(os.sched_getaffinity(0))
    different = []
    for case, theirs in zip(table, json.loads(done.stdout), strict=True):
        mine = ours(case)
        if " ".join(case["argv"]) in LENIENT:
            continue
        if comparable(mine, cpus) != comparable(theirs, cpus):
            different.append(f"{case}\n  torchrun: {theirs}\n  trainyard: {mine}")
    assert not different, "\n".join(different)


SCRIPT = """
import os, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(value)
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
         "ROLE_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID",
         "TORCHELASTIC_USE_AGENT_STORE", "OMP_NUM_THREADS", "TORCH_NCCL_ASYNC_ERROR_HANDLING"]
# One write for a line: torchrun's ranks share its output.
os.write(1, " ".join(["env", *[f"{n}={os.environ.get(n)}" for n in names], "\\n"]).encode())
os.write(1, f"sum {int(value.item())} args {sys.argv[1:]}\\n".encode())
restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if "fail" in sys.argv and restart == 0 and dist.get_rank() == 1:
    os._exit(3)
dist.barrier()
dist.destroy_process_group()
"""


# What it takes to see a rank's environment and arguments, without torch.
LIGHT = SCRIPT.replace("import torch, torch.distributed as dist\n", "")
LIGHT = LIGHT[:LIGHT.index("dist.init")] + LIGHT[LIGHT.index("names ="):LIGHT.index("os.write(1, f\"sum")]
LIGHT += 'os.write(1, f"args {sys.argv[1:]}\\n".encode())\n'


def start(program, *words, tmp_path, env=None, text=SCRIPT):
    script = tmp_path / "train.py"
    script.write_text(text)
    words = [str(script) if word == "SCRIPT" else word for word in words]
    return subprocess.Popen([*program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**clean_env(), "PYTHON_EXEC": str(TORCH), **(env or {})})


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, f"{out}\n{err}"
    return out


OURS = [TRAINYARD, "torchrun"]
THEIRS = [str(TORCH), "-m", "torch.distributed.run"]


def test_the_ranks_have_the_environment_that_torchrun_gives(tmp_path):
    words = ["--nproc-per-node", "2", "--role", "trainer", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
             "--rdzv-id", "j7", "--max-restarts", "2", "SCRIPT", "${local_rank}", "x$$y"]

    def lines(out):
        return sorted(line[line.index(word):] for line in out.splitlines() for word in ("env", "sum") if word in line)

    ours, theirs = (lines(finish(start(program, *words, tmp_path=tmp_path))) for program in (OURS, THEIRS))
    # c10d of torchrun lets rank 0 host the store; our launcher hosts it.
    known = [line.replace("TORCHELASTIC_USE_AGENT_STORE=False", "TORCHELASTIC_USE_AGENT_STORE=True") for line in theirs]
    assert ours == known


def test_two_nodes_of_a_static_rendezvous(tmp_path):
    port = str(free_port())
    words = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port]
    nodes = [start(OURS, *words, "--node-rank", rank, "SCRIPT", tmp_path=tmp_path) for rank in "01"]
    text = "".join(finish(node) for node in nodes)
    assert text.count("sum 10") == 4
    assert all(f" RANK={rank} " in text for rank in range(4))


def meeting_place(*more):
    return ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}",
            "--rdzv-id", "j7", *more]


def test_nodes_that_find_each_other_have_the_environment_that_torchrun_gives(tmp_path):
    # One node is told by options, the other by variables.
    names = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "2", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ID": "j7"}

    def lines(program):
        words = meeting_place()
        variables = {**names, "PET_RDZV_ENDPOINT": words[words.index("--rdzv-endpoint") + 1]}
        nodes = [start(program, *words, "SCRIPT", tmp_path=tmp_path, text=LIGHT),
                 start(program, "SCRIPT", tmp_path=tmp_path, text=LIGHT, env=variables)]
        out = "".join(finish(node) for node in nodes).splitlines()
        # Our launcher hosts the store, where torchrun lets rank 0 do it.
        said = [line[line.index("env "):] for line in out if "env " in line]
        return sorted(line.replace("AGENT_STORE=False", "AGENT_STORE=True") for line in said)

    said = lines(OURS)
    assert len(said) == 4 and said == lines(THEIRS)


def test_a_failed_rank_on_one_node_starts_all_nodes_again(tmp_path):
    words = meeting_place("--max-restarts", "1")
    nodes = [start(OURS, *words, "SCRIPT", "fail", tmp_path=tmp_path) for _ in range(2)]
    text = "".join(finish(node) for node in nodes)
    assert text.count("TORCHELASTIC_RESTART_COUNT=1") == 4 and text.count("sum 10") == 8, text


MISMATCH = """
import os, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
for step in range(40):
    dist.all_reduce(torch.ones(1))
    print(f"step={step}", flush=True)
    time.sleep(0.05)
    if step == 20 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        # Each waits for what the other one would send.
        dist.recv(torch.ones(1), 1 - dist.get_rank())
dist.destroy_process_group()
"""


def test_nodes_that_wait_for_each_other_are_started_again(tmp_path):
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}",
             "--max-restarts", "1", "--on-hang", "restart", "--spares", "off"]
    nodes = [start(OURS, *words, "SCRIPT", tmp_path=tmp_path, text=MISMATCH) for _ in range(2)]
    done = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], done
    said = "".join(err for _, err in done)
    assert said.count("it and 1 other rank wait for each other") == 1, said
    assert "generation 1: rank 0 failed: it hangs in recv" in said, said


def test_a_torchrun_of_pytorch_on_another_node_is_named(tmp_path):
    words = meeting_place()
    theirs = start(THEIRS, *words, "SCRIPT", tmp_path=tmp_path)
    try:
        host, port = words[words.index("--rdzv-endpoint") + 1].split(":")
        eventually(lambda: not socket.create_connection((host, int(port)), 1).close(), "torchrun serves", 60)
        ours = start(OURS, *words, "SCRIPT", tmp_path=tmp_path)
        _, err = ours.communicate(timeout=60)
        assert ours.returncode == 1 and "PyTorch's torchrun answers at localhost:" in err, err
    finally:
        theirs.kill()
        theirs.communicate()


def test_the_launcher_of_old_is_what_it_was(tmp_path):
    def arguments(program, *more):
        out = finish(start(program, "--nproc-per-node", "2", *more, "SCRIPT", "x", tmp_path=tmp_path, text=LIGHT))
        return sorted(line[line.index("args"):] for line in out.splitlines() if "args" in line)

    ours, theirs = [*OURS, "--legacy-launch"], [str(TORCH), "-m", "torch.distributed.launch"]
    said = arguments(ours)
    assert said == ["args ['--local-rank=0', 'x']", "args ['--local-rank=1', 'x']"] == arguments(theirs)
    assert arguments(ours, "--use-env") == ["args ['x']"] * 2


def test_output_goes_where_torchrun_puts_it(tmp_path):
    for name, program in (("ours", OURS), ("theirs", THEIRS)):
        logs = tmp_path / name
        out = finish(start(program, "--nproc-per-node", "2", "--rdzv-id", "j7", "--rdzv-backend", "c10d", "--log-dir",
                           str(logs), "-r", "0:1", "-t", "1:1", "--duplicate-stdout-filters", "sum", "SCRIPT",
                           tmp_path=tmp_path))
        [run] = logs.iterdir()
        assert run.name.startswith("j7_"), name
        attempt = run / "attempt_0"
        assert "sum 3" in (attempt / "0" / "stdout.log").read_text(), name
        assert "sum 3" in (attempt / "1" / "stdout.log").read_text(), name
        assert "[default1]:sum 3" in out and " RANK=0 " not in out, name
        assert (attempt / "filtered_stdout.log").read_text() == "[default1]:sum 3 args []\n", name
    only = finish(start(OURS, "--nproc-per-node", "2", "--local-ranks-filter", "1", "SCRIPT", tmp_path=tmp_path))
    assert " RANK=1 " in only and " RANK=0 " not in only


def test_log_files_that_cannot_be_made_are_named(tmp_path):
    process = start(OURS, "--nproc-per-node", "2", "--log-dir", "/proc/logs", "--redirects", "3", "SCRIPT", tmp_path=tmp_path)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 126, f"{out}\n{told}"
    assert "its log files cannot be made, see --log-dir: " in told and "is the program installed" not in told


def test_ranks_are_started_again_as_often_as_was_said(tmp_path):
    words = ["--nproc-per-node", "2", "--max-restarts", "1", "SCRIPT", "fail"]
    out = finish(start(OURS, *words, tmp_path=tmp_path))
    assert out.count("TORCHELASTIC_RESTART_COUNT=1") == 2
    failing = start(OURS, "--nproc-per-node", "2", "SCRIPT", "fail", tmp_path=tmp_path)
    failing.communicate(timeout=120)
    assert failing.returncode == 3, "the exit code of the rank that failed, where torchrun has 1"
