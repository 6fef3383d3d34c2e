"""The embedded server beside a real kube-apiserver on a real etcd: the same requests, the same answers."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

import generated
from agreement import Target, differences, page
from conftest import ROOT, Server, eventually, free_port
from generated_definitions import definitions
from recorded import SCENARIOS as WRITTEN
from recorded_found import FOUND
from recorded_mended import CUSTOM, MENDED

SCENARIOS = {**WRITTEN, **FOUND, **MENDED}

# How many generated sequences are played, and from which seed on. Each is answered in a second or two.
SEEDS = int(os.environ.get("GENERATED_SEEDS", 80))
FIRST_SEED = int(os.environ.get("GENERATED_FROM", 0))


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory):
    bin = os.environ.get("KUBERNETES_BIN")
    assert bin, "KUBERNETES_BIN: the folder that `tests/tools/kubernetes etcd kube-apiserver` prints"
    folder = tmp_path_factory.mktemp("kubernetes")
    client, peer, port = free_port(), free_port(), free_port()
    subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, capture_output=True)
    (folder / "tokens").write_text("t,t,t,system:masters\n")
    log = open(folder / "log", "wb")
    etcd = subprocess.Popen([
        f"{bin}/etcd", "--data-dir", folder / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}",
        "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
        "--log-level", "error"], stdout=log, stderr=log)
    api = subprocess.Popen([
        f"{bin}/kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{client}", "--secure-port", str(port),
        "--bind-address", "127.0.0.1", "--cert-dir", folder / "certs", "--authorization-mode", "AlwaysAllow",
        "--service-account-issuer", "https://kubernetes.default.svc", "--token-auth-file", folder / "tokens",
        "--service-account-signing-key-file", folder / "sa.key", "--service-account-key-file", folder / "sa.key",
        "--disable-admission-plugins", "ServiceAccount", "--service-cluster-ip-range", "10.96.0.0/21"],
        stdout=log, stderr=log)
    # The range of addresses is small: for a service without a name each of them is tried, one by one.
    target = Target(f"https://127.0.0.1:{port}", "t")
    eventually(lambda: target.http.request("GET", target.url + "/readyz", headers=target.headers, retries=False).status == 200,
               "kube-apiserver is ready", 300)
    eventually(lambda: target.call("GET", "/api/v1/namespaces/default")[0] == 200, "it has its namespaces")
    yield target
    api.kill()
    etcd.kill()
    api.wait()
    etcd.wait()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """Without controllers, which the real API server beside it does not have either."""
    s = Server(tmp_path_factory.mktemp("embedded") / "home", "--api-only").start()
    yield s
    s.stop()


@pytest.fixture(scope="session")
def defined(kubernetes, embedded):
    """The kinds that are part of the embedded server, as custom ones."""
    printed = json.loads(embedded.trainyard("install", "--kubeflow", "-o", "json").stdout)
    for each in definitions(printed.get("items", printed) if isinstance(printed, dict) else printed):
        status, answer = kubernetes.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", each)
        assert status == 201, answer
        group, version = each["spec"]["group"], each["spec"]["versions"][0]["name"]
        path = f"/apis/{group}/{version}/{each['spec']['names']['plural']}"
        eventually(lambda: kubernetes.call("GET", path)[0] == 200, f"{path} is served")
    return kubernetes


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_answers_agree(embedded, kubernetes, name):
    wrong = differences(SCENARIOS[name], Target(embedded.url), kubernetes)
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("name", CUSTOM)
def test_the_answers_of_custom_kinds_agree(embedded, defined, name):
    wrong = differences(CUSTOM[name], Target(embedded.url), defined)
    assert not wrong, "\n".join(map(str, wrong))


def test_generated_sequences_are_answered_alike(embedded, defined):
    """What fails is printed as small as it could be made, to be kept in `recorded.py` once it is mended."""
    servers = Target(embedded.url), defined

    def first(steps, patience=(1,)):
        return next(iter(differences(steps, *servers, patience)), None)

    def differs(seed):
        steps = generated.sequence(seed)
        # A second time, as a table's age may change from one second to the next.
        if not (first(steps) and (found := first(steps, (10,)))):
            return None
        small = generated.shrunk(steps[:found.at + 1], first)
        lines = "\n".join(f"        {tuple(step)!r}," for step in small)
        return f"seed {seed}:\n{lines}\n{first(small) or found}"

    with ThreadPoolExecutor(8) as pool:
        seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
        wrong = [each for each in pool.map(differs, seeds) if each]
    assert not wrong, "\n\n".join(wrong)


def test_the_differences_are_documented():
    assert (ROOT / "docs" / "api-differences.md").read_text() == page()
