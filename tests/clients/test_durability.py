"""kill -9 at any moment: no acknowledged write is lost, running training goes on, nothing is left behind."""

import json
import os
import pathlib
import threading
import time

from kubernetes import client

from conftest import eventually


def test_acknowledged_writes_survive_kill_9(own_server):
    for round in range(3):
        api = client.CoreV1Api(client.ApiClient(client.Configuration(host=own_server.url)))
        acknowledged, stop = [], threading.Event()

        def write(n):
            mine = client.CoreV1Api(client.ApiClient(client.Configuration(host=own_server.url)))
            for i in range(10_000):
                name = f"r{round}-w{n}-{i}"
                try:
                    mine.create_namespaced_config_map("default", client.V1ConfigMap(
                        metadata=client.V1ObjectMeta(name=name), data={"n": str(i)}))
                except Exception:
                    return
                acknowledged.append(name)

        writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for w in writers:
            w.start()
        eventually(lambda: len(acknowledged) > 200, "some writes are acknowledged")
        own_server.kill()
        for w in writers:
            w.join()
        own_server.start()
        api = client.CoreV1Api(client.ApiClient(client.Configuration(host=own_server.url)))
        there = {c.metadata.name for c in api.list_namespaced_config_map("default").items}
        lost = [name for name in acknowledged if name not in there]
        assert not lost, f"round {round}: {len(lost)} of {len(acknowledged)} acknowledged writes are lost: {lost[:5]}"


def test_training_outlives_a_killed_server(own_server, tmp_path):
    # It goes on until it is told to end, however long it takes to look at it.
    script = f"i=0; while [ ! -e {tmp_path}/go ]; do i=$((i+1)); echo line $i; sleep 0.1; done; echo $i lines"
    own_server.kubectl("apply", "-f", "-", input=f"""
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {{name: steady}}
spec:
  command: [sh, -c, {json.dumps(script)}]
""")
    pods = lambda: own_server.get("pods", "-l", "training.kubeflow.org/job-name=steady")["items"]
    eventually(lambda: pods() and pods()[0]["status"]["phase"] == "Running", "the job runs")
    uid = pods()[0]["metadata"]["uid"]
    time.sleep(0.5)
    own_server.kill()
    time.sleep(1)
    own_server.start()
    (tmp_path / "go").touch()
    def phase():
        return own_server.get("trainingjob", "steady").get("status", {}).get("phase")
    assert eventually(lambda: phase() in ("Succeeded", "Failed") and phase(), "it ends") == "Succeeded"
    assert pods()[0]["metadata"]["uid"] == uid, "the pod was adopted, not made anew"
    lines = own_server.kubectl("logs", pods()[0]["metadata"]["name"]).stdout.splitlines()
    said = [line for line in lines if line.startswith("line ")]
    assert said == [f"line {i + 1}" for i in range(len(said))] and f"{len(said)} lines" in lines, lines


def test_no_process_is_left_after_delete(own_server):
    marker = f"31{os.getpid()}"  # others may run this test on the same machine
    own_server.kubectl("apply", "-f", "-", input=f"""
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {{name: left}}
spec:
  procsPerReplica: 2
  command: [sh, -c, "sleep {marker} & setsid sleep {marker} & wait"]
""")
    running = lambda: [p for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and _cmdline(p) == ["sleep", marker]]
    eventually(lambda: len(running()) == 4, "all four sleeps run")
    own_server.kubectl("delete", "trainingjob", "left", "--timeout=120s")
    eventually(lambda: not running(), "no process is left")


def _cmdline(process):
    try:
        return (process / "cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []


def test_two_servers_do_not_share_a_home(own_server):
    """The second `up` says that there is one already, and where, and leaves it alone."""
    second = own_server.trainyard("up", "--listen", "127.0.0.1:0", check=False, timeout=120)
    assert own_server.url in second.stdout + second.stderr
    assert own_server.process.poll() is None and own_server.kubectl("get", "ns").returncode == 0


def test_other_addresses_need_tls_and_a_token(own_server, tmp_path):
    env_home = {**own_server.env, "TRAINYARD_HOME": str(tmp_path / "other")}
    import subprocess
    from conftest import TRAINYARD
    done = subprocess.run([TRAINYARD, "up", "--listen", "0.0.0.0:0"], env=env_home, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "--tls-cert" in done.stderr and "--token-file" in done.stderr
