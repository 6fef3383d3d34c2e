"""The main job, as a newcomer runs it, and everything that can go wrong with it."""

import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from conftest import ROOT, TRAINYARD, eventually

WINE = ROOT / "examples" / "wine-ddp.yaml"


@pytest.fixture
def trainyard(tmp_path):
    """Runs the binary on a home folder of its own, without a server."""
    env = {**os.environ, "TRAINYARD_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "PATH": "/usr/bin:/bin"}
    env.pop("KUBECONFIG", None)

    def call(*args, timeout=120, cwd=ROOT):
        return subprocess.run([TRAINYARD, *map(str, args)], env=env, capture_output=True, text=True, timeout=timeout, cwd=cwd)
    call.env = env
    call.home = tmp_path / "home"
    return call


def leftovers(home):
    """Processes that have the home folder in their arguments or environment: servers, shims, launchers and ranks."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                arguments = (process / "cmdline").read_bytes()
                if str(home).encode() in arguments + (process / "environ").read_bytes():
                    found.append(arguments)
            except OSError:
                pass
    return found


def test_the_main_job(trainyard):
    done = trainyard("run", WINE)
    out = done.stdout + done.stderr
    assert done.returncode == 0, out
    accuracy = float(re.search(r"test_accuracy[=: ]+([0-9.]+)", out).group(1))
    assert accuracy > 0.65
    for rank in range(4):
        assert f"[rank {rank}]" in out
    for word in ("Running", "Succeeded", str(trainyard.home)):
        assert word in out, word
    eventually(lambda: not leftovers(trainyard.home), "no process is left")
    # The records stay.
    again = trainyard("get", "trainingjobs", "-o", "json")
    items = json.loads(again.stdout)["items"]
    assert [i["status"]["phase"] for i in items] == ["Succeeded"]
    assert "test_accuracy" in trainyard("logs", "wine-ddp").stdout


def test_twice(trainyard):
    assert trainyard("run", WINE).returncode == 0
    assert trainyard("run", WINE).returncode == 0


def test_a_deleted_job_leaves_no_logs(trainyard, tmp_path):
    """Without a server too: deleting is what makes room on a disk that is full."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: m}\n"
                        "spec: {command: [echo, hello]}\n")
    assert trainyard("run", manifest).returncode == 0
    assert list(trainyard.home.glob("pods/*/containers/*/0.log"))
    done = trainyard("delete", "m")
    assert done.returncode == 0, done.stderr
    assert not list(trainyard.home.glob("pods/*")) and not list(trainyard.home.glob("ended/*"))


def test_eight_ranks(trainyard, tmp_path):
    eight = tmp_path / "eight.yaml"
    eight.write_text(re.sub(r"procsPerReplica: \d+", "procsPerReplica: 8", WINE.read_text()))
    done = trainyard("run", eight)
    assert done.returncode == 0 and "[rank 7]" in done.stdout + done.stderr


def test_a_wrong_field_names_file_line_and_cure(trainyard, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WINE.read_text().replace("procsPerReplica", "procsPerReplika"))
    line = next(n for n, l in enumerate(wrong.read_text().splitlines(), 1) if l.strip().startswith("procsPerReplika"))
    for command in ("run", "validate"):
        done = trainyard(command, wrong)
        assert done.returncode == 2
        assert f"wrong.yaml:{line}" in done.stderr
        assert "spec.procsPerReplika" in done.stderr and "procsPerReplica" in done.stderr.replace("procsPerReplika", "")


def test_a_missing_file(trainyard):
    done = trainyard("run", "absent.yaml")
    assert done.returncode == 2 and "absent.yaml" in done.stderr


def test_a_missing_program(trainyard, tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: m}\n"
                        "spec: {command: [no-such-program]}\n")
    done = trainyard("run", manifest)
    assert done.returncode not in (0, 2)
    assert "no-such-program" in done.stderr + done.stdout and "hint" in done.stderr.lower()


def test_a_crashing_rank_gives_its_code_and_its_last_words(trainyard, tmp_path):
    manifest = tmp_path / "crash.yaml"
    manifest.write_text("""
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {name: crash}
spec:
  procsPerReplica: 4
  command: [sh, -c, 'if [ $RANK = 2 ]; then echo "ValueError: bad batch" >&2; exit 7; fi; exec sleep 100000']
""")
    # The peers of the dead rank sleep for a day: who waited for them would not come back.
    done = trainyard("run", manifest)
    assert done.returncode == 7
    assert "rank 2" in done.stderr and "ValueError: bad batch" in done.stderr + done.stdout
    eventually(lambda: not leftovers(trainyard.home), "no process is left")


def test_a_signal_gives_128_plus_n(trainyard, tmp_path):
    manifest = tmp_path / "signal.yaml"
    manifest.write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: s}\n"
                        "spec: {command: [sh, -c, 'kill -SEGV $$$$']}\n")
    assert trainyard("run", manifest).returncode == 139


def test_ctrl_c_stops_the_job_and_says_how_to_go_on(trainyard, tmp_path):
    manifest = tmp_path / "long.yaml"
    manifest.write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: long}\n"
                        "spec: {procsPerReplica: 2, command: [sh, -c, 'echo started; exec sleep 1000']}\n")
    run = subprocess.Popen([TRAINYARD, "run", str(manifest)], env=trainyard.env, cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen = []
    for line in run.stdout:
        seen.append(line)
        if sum("started" in l for l in seen) == 2:
            break
    run.send_signal(signal.SIGINT)
    rest = run.communicate(timeout=60)[0]
    assert run.returncode == 130, rest
    assert "trainyard resume" in rest
    eventually(lambda: not leftovers(trainyard.home), "no process is left")


def test_run_works_in_the_folder_where_it_is_called(trainyard, tmp_path):
    (tmp_path / "train.sh").write_text("echo from the script\n")
    (tmp_path / "m.yaml").write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: cwd}\n"
                                     "spec: {command: [sh, train.sh]}\n")
    done = trainyard("run", "m.yaml", cwd=tmp_path)
    assert done.returncode == 0 and "from the script" in done.stdout + done.stderr


FORBID = ("echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"")


@pytest.fixture
def without_namespaces(trainyard):
    """The same binary where the kernel grants no namespace: in a user namespace whose limit on more of them is 0, without capabilities."""
    def call(*args):
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", FORBID, "sh", TRAINYARD, *map(str, args)]
        return subprocess.run(command, env=trainyard.env, capture_output=True, text=True, timeout=120, cwd=ROOT)
    if call("version").returncode != 0:
        pytest.skip("this machine does not let us forbid namespaces")
    assert "cannot make a user namespace" in call("shim", "check-namespaces").stdout
    return call


def test_where_namespaces_are_forbidden_names_still_lead_to_pods(without_namespaces, tmp_path):
    manifest = tmp_path / "names.yaml"
    role = "{replicas: 1, template: {spec: {containers: [{name: pytorch, image: none, command: [sh, -c, 'echo to $MASTER_ADDR']}]}}}"
    manifest.write_text("apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {name: names}\n"
                        f"spec: {{pytorchReplicaSpecs: {{Master: {role}, Worker: {role}}}}}\n")
    done = without_namespaces("run", manifest)
    assert done.returncode == 0, done.stderr
    addresses = re.findall(r"to (\S+)", done.stdout)
    assert len(addresses) == 2 and len(set(addresses)) == 1 and addresses[0].startswith("127."), done.stdout
    assert without_namespaces("run", WINE).returncode == 0


def test_where_namespaces_are_forbidden_a_volume_is_refused_with_the_switch(without_namespaces, tmp_path):
    manifest = tmp_path / "volume.yaml"
    manifest.write_text("apiVersion: trainyard.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: v}\n"
                        "spec: {command: ['true'], volumes: [{name: v, emptyDir: {}}], volumeMounts: [{name: v, mountPath: /data}]}\n")
    done = without_namespaces("run", manifest)
    assert done.returncode == 1
    assert "VolumeNotMountable" in done.stderr and "sysctl user.max_user_namespaces" in done.stderr, done.stderr


def test_an_experiment_finds_settings_of_the_main_job(trainyard):
    done = trainyard("tune", ROOT / "examples" / "wine-tune.toml")
    assert done.returncode == 0, done.stderr
    trials = json.loads(trainyard("get", "trials", "-o", "json").stdout)["items"]
    told = [t["status"]["values"]["validation_accuracy"] for t in trials if t["status"]["phase"] == "Succeeded"]
    # A trial with too high a rate may diverge, which is a failure.
    assert len(trials) == 16 and len(told) >= 10
    best = json.loads(trainyard("get", "experiment", "wine-tune", "-o", "json").stdout)["status"]["best"]
    assert best["values"]["validation_accuracy"] == max(told) > 0.7
    assert set(re.findall(r"^(\w+) = ", done.stdout, re.M)) == {"lr", "momentum", "weight_decay", "hidden"}
    eventually(lambda: not leftovers(trainyard.home), "no process is left")
