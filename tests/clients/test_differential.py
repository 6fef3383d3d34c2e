"""The embedded server beside a real kube-apiserver on a real etcd: the same requests, the same answers.

What is allowed to differ is in `ACCEPTED`, each with its reason; docs/api-differences.md is made from that list
(`PYTHONPATH=tests:tests/clients python tests/clients/test_differential.py`) and checked against it here.
"""

import json
import os
import pathlib
import re
import subprocess
import urllib.parse
import uuid

import pytest
import urllib3

from conftest import ROOT, Server, eventually, free_port
from recorded import JSON, SCENARIOS

urllib3.disable_warnings()

# What kube-apiserver adds to each pod.
DEFAULT_TOLERATIONS = [{"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute",
                        "tolerationSeconds": 300} for key in ("not-ready", "unreachable")]

# (name, reason, what is taken out of both answers before they are compared)
ACCEPTED = [
    ("identities", "uids, versions, addresses and times belong to one server",
     lambda v: scrub(v, {"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "selfLink", "time",
                         "continue", "remainingItemCount", "lastTransitionTime"})),
    ("generated names", "the random suffix of generateName, and uids in messages, differ from run to run", lambda v: suffixes(v)),
    ("defaults of pods", "images are not run by the cluster's kubelet here: the embedded server does not write "
     "defaults that only a container runtime or a cluster scheduler reads",
     lambda v: without_defaults(v, {
         "enableServiceLinks": [True], "preemptionPolicy": ["PreemptLowerPriority"],
         "priority": [0], "tolerations": [DEFAULT_TOLERATIONS], "serviceAccount": ["default"],
         "serviceAccountName": ["default"]})),
    ("field ownership of one's own defaults", "managedFields are compared by manager and operation; their sets follow "
     "from the stored fields", lambda v: managers(v)),
    ("column descriptions", "tables describe their columns in our words", lambda v: scrub(v, {"description"})),
    ("words of the JSON decoder", "a malformed body is refused with the same code and reason; the text is the "
     "decoder's own, and numbers are refused in words", lambda v: decoder_words(v)),
    ("the client's fault is told as such", "kube-apiserver answers 500 to some requests that only their sender can mend; here "
     "they get 400 and the same message", lambda v: clients_fault(v)),
    ("dumps of Go structs", "kube-apiserver ends the refusal of a change of a pod's spec with a diff of its own structs",
     lambda v: texts(v, lambda text: text.split("\n@@ ")[0])),
    ("protobuf", "answers are JSON or YAML; requests may be protobuf",
     lambda v: texts(v, lambda text: text.replace(", application/vnd.kubernetes.protobuf", ""))),
    ("defaults of nodes", "the node agent writes its node's facts itself, and the node is ready or the server is not there",
     lambda v: scrub(v, {"taints", "allocatable", "daemonEndpoints", "nodeInfo"})),
    ("protection of claims", "kube-apiserver puts the finalizer on a claim when it is made; here the node agent does when a pod first uses it",
     lambda v: json.loads(json.dumps(v).replace('["kubernetes.io/pvc-protection"]', "[]"))),
    ("the status of quotas", "the embedded server itself counts what a quota's namespace uses; for kube-apiserver a controller does",
     lambda v: without_status(v, "ResourceQuota")),
    ("job selectors", "labels and selectors that kube-apiserver generates for a Job hold its uid",
     lambda v: scrub(v, {"batch.kubernetes.io/controller-uid", "controller-uid", "batch.kubernetes.io/job-name",
                         "job-name"})),
]


def scrub(value, names):
    if isinstance(value, dict):
        return {k: scrub(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [scrub(v, names) for v in value]
    return value


def without_defaults(value, defaults):
    """Without fields that say what their absence means. What a user chose stays, and is compared."""
    if isinstance(value, dict):
        kept = {k: without_defaults(v, defaults) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in defaults.get(k, []) and value[k] not in defaults.get(k, [])}
    if isinstance(value, list):
        return [without_defaults(v, defaults) for v in value]
    return value


def without_status(value, kind):
    if isinstance(value, dict):
        gone = {"status"} if value.get("kind") == kind else set()
        return {k: without_status(v, kind) for k, v in value.items() if k not in gone}
    if isinstance(value, list):
        return [without_status(v, kind) for v in value]
    return value


def texts(value, change):
    if isinstance(value, dict):
        return {k: texts(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [texts(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def suffixes(value):
    text = re.sub(r"(gen-|Bad_)[a-z0-9]{5}", r"\1xxxxx", json.dumps(value))
    text = re.sub(r"10\.96\.\d+\.\d+", "10.96.x.x", re.sub(r"in record \(\d+\)", "in record (N)", text))
    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", text))


def decoder_words(value):
    if not isinstance(value, dict) or value.get("kind") != "Status" or value.get("code") != 400:
        return value
    message = re.sub(r"(cannot be handled as a \w+: )(?!strict|converting).*", r"\1...", value.get("message", ""), flags=re.S)
    message = re.sub(r"query parameter \w+: (\".*\") is not a number in range|strconv\.\w+: parsing (\".*\"): invalid syntax",
                     r"\1\2 is not a number", message)
    message = re.sub(r"(invalid resource version: )?resourceVersion: Invalid value: (\S+): .*", r"resourceVersion \2", message)
    return {**value, "message": "malformed" if re.search("json|yaml", message.lower()) else message}


def clients_fault(value):
    """500 without a reason becomes 400; alike in the pair of status and answer."""
    if isinstance(value, dict) and value.get("kind") == "Status" and value.get("code") == 500:
        return decoder_words({**value, "code": 400, "reason": "BadRequest"})
    return value


def managers(value):
    if isinstance(value, dict):
        out = {k: managers(v) for k, v in value.items()}
        if "managedFields" in out:
            out["managedFields"] = sorted((m.get("manager"), m.get("operation"), m.get("subresource", ""))
                                          for m in value["managedFields"])
        return out
    if isinstance(value, list):
        return [managers(v) for v in value]
    return value


def normalise(value, namespace):
    value = json.loads(json.dumps(value).replace(namespace, "NS"))
    for _, _, take_out in ACCEPTED:
        value = take_out(value)
    return drop_empty(value)


def drop_empty(value):
    """An absent field, an empty object and an empty list mean the same."""
    if isinstance(value, dict):
        return {k: w for k, v in value.items() if (w := drop_empty(v)) not in ({}, [], None)}
    if isinstance(value, list):
        return [drop_empty(v) for v in value]
    return value


def is_root_ca(event):
    """A controller publishes this one in every namespace."""
    return event["object"]["metadata"].get("name") == "kube-root-ca.crt"


class Target:
    def __init__(self, url, token=None):
        self.url, self.headers = url, {"authorization": f"Bearer {token}"} if token else {}
        self.http = urllib3.PoolManager(cert_reqs="CERT_NONE")

    def call(self, method, path, body=None, content_type=JSON, accept=JSON):
        raw = body if isinstance(body, str) or body is None else json.dumps(body)
        answer = self.http.request(method, self.url + path, body=raw, headers={
            **self.headers, "content-type": content_type, "accept": accept, "user-agent": "recorded/1"}, timeout=30)
        try:
            return answer.status, json.loads(answer.data)
        except ValueError:
            return answer.status, answer.data.decode()

    def events(self, path, since, accept=JSON):
        joiner = "&" if "?" in path else "?"
        start = f"&resourceVersion={since}" if since else ""
        answer = self.http.request("GET", f"{self.url}{path}{joiner}watch=1{start}&timeoutSeconds=1",
                                   headers={**self.headers, "accept": accept}, timeout=30)
        return [json.loads(line) for line in answer.data.splitlines() if line]

    def play(self, scenario):
        namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        since = self.call("GET", f"/api/v1/namespaces/{namespace}/configmaps")[1]["metadata"]["resourceVersion"]
        bodies, transcript = [], []
        for method, path, *rest in scenario:
            path = (path(bodies) if callable(path) else path).replace("{ns}", namespace).replace("{since}", since)
            if method in ("watch", "watch from here"):
                seen = self.events(path, since if method == "watch" else None, *rest)
                transcript.append(normalise([(e["type"], e["object"]) for e in seen if not is_root_ca(e)], namespace))
                continue
            body = rest[0](bodies) if rest and callable(rest[0]) else rest[0] if rest else None
            body = json.loads(json.dumps(body).replace("{ns}", namespace))
            status, answer = self.call(method, path, body, *rest[1:])
            bodies.append(answer)
            answer = normalise(answer, namespace)
            transcript.append([answer["code"] if status == 500 else status, answer])
        self.call("DELETE", f"/api/v1/namespaces/{namespace}")
        return transcript


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
        "--disable-admission-plugins", "ServiceAccount", "--service-cluster-ip-range", "10.96.0.0/16"],
        stdout=log, stderr=log)
    target = Target(f"https://127.0.0.1:{port}", "t")
    eventually(lambda: target.http.request("GET", target.url + "/readyz", headers=target.headers, retries=False).status == 200,
               "kube-apiserver is ready", 90)
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


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_answers_agree(embedded, kubernetes, name):
    ours, theirs = Target(embedded.url).play(SCENARIOS[name]), kubernetes.play(SCENARIOS[name])
    wrong = []
    for n, (step, mine, real) in enumerate(zip(SCENARIOS[name], ours, theirs)):
        if mine != real:
            wrong.append(f"step {n} {step[0]} {step[1]}\n  embedded: {json.dumps(mine, sort_keys=True)}\n"
                         f"  real:     {json.dumps(real, sort_keys=True)}")
    assert not wrong, "\n".join(wrong)


def page():
    lines = ["# Where the embedded API server differs from kube-apiserver", "",
             "Recorded requests go to both (`tests/clients/recorded.py`); after the following is taken out, the answers",
             "and the watch streams are the same. Made by `tests/clients/test_differential.py`.", "",
             "| what differs | why |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {reason} |" for name, reason, _ in ACCEPTED]) + "\n"


def test_the_differences_are_documented():
    assert (ROOT / "docs" / "api-differences.md").read_text() == page()


if __name__ == "__main__":
    (pathlib.Path(ROOT) / "docs" / "api-differences.md").write_text(page())
