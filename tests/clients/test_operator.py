"""`trainyard install` and `trainyard operator` against a real etcd and kube-apiserver, with RBAC.

The operators run as the service account that `trainyard install` makes, with a token of it, so every test is also one that
its rights suffice. What is stood in for: the kubelet (see real_cluster.py); pods are processes of this machine.
"""

import json
import os
import signal
import subprocess
import threading

import pytest

from conftest import TRAINYARD, eventually, free_port
from real_cluster import Cluster

SYSTEM = "trainyard-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:trainyard-operator"
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
JOBS = "/apis/trainyard.dev/v1alpha1/namespaces/{}/trainingjobs"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/trainyard-operator"
# Rights that none of the tests below has a use for, each with the reason why the operator has it all the same.
UNUSED = {
    ("", "configmaps", "delete"): "a snapshot goes with its job; only one that is in the way is deleted",
    ("", "configmaps", "get"): "only where the name of a snapshot is taken",
    ("", "configmaps", "create"): "TrainJobs only",
    ("", "pods", "get"): "only where the name of a pod is taken, or another incarnation met",
    ("", "services", "get"): "likewise",
    ("", "services", "delete"): "services go with their job; only those that another size of it needs no more are deleted",
    ("", "events", "get"): "only after a restart of the operator, for an event that was there before",
    ("", "events", "patch"): "only for an event that happens again",
    ("kubeflow.org", "pytorchjobs", "get"): "generations are reserved in it, if launchers meet",
    ("kubeflow.org", "pytorchjobs", "patch"): "restarts are counted in it",
    ("kubeflow.org", "pytorchjobs", "delete"): "those with a time to live after their end",
    ("trainer.kubeflow.org", "trainjobs", "get"): "as for PyTorchJobs",
    ("trainer.kubeflow.org", "trainjobs", "patch"): "as for PyTorchJobs",
    ("trainer.kubeflow.org", "trainjobs", "delete"): "as for PyTorchJobs",
    ("trainer.kubeflow.org", "trainjobs/status", "patch"): "no TrainJob is run here",
    ("", "pods/status", "patch"): "only for a gang that waits",
    ("kueue.x-k8s.io", "workloads", "get"): "only where its name is taken",
    ("scheduling.volcano.sh", "podgroups", "get"): "only where its name is taken",
    ("scheduling.volcano.sh", "podgroups", "patch"): "only where the size of the gang changes",
    **{("scheduling.k8s.io", "podgroups", verb): "this Kubernetes has none of its own"
       for verb in ("get", "list", "watch", "create", "patch", "delete")},
    # This cluster has Kueue, whose queues are its own: tests/kubernetes/test_queues.py uses these.
    **{(group, resource, verb): "only where the queues are ours" for group, resource, verbs in (
        ("", "namespaces", "list watch"), ("kueue.x-k8s.io", "clusterqueues", "list watch patch"),
        ("kueue.x-k8s.io", "clusterqueues/status", "patch"), ("kueue.x-k8s.io", "localqueues", "list watch"),
        ("kueue.x-k8s.io", "localqueues/status", "patch"), ("kueue.x-k8s.io", "cohorts", "list watch"),
        ("kueue.x-k8s.io", "topologies", "list watch")) for verb in verbs.split()},
    # tests/kubernetes/test_queues.py runs an experiment.
    **{(group, resource, verb): "only for experiments" for group, resource, verbs in (
        ("", "pods/log", "get"), ("batch", "jobs", "get create patch delete"), ("kubeflow.org", "pytorchjobs", "create"),
        ("trainer.kubeflow.org", "trainjobs", "create"), ("trainyard.dev", "trainingjobs", "create"),
        ("trainyard.dev", "trials", "get create"), ("trainyard.dev", "trials/status", "patch"),
        ("trainyard.dev", "experiments/status", "patch")) for verb in verbs.split()},
    # The operators of these tests are no pods, so launchers are not directed to one.
    ("discovery.k8s.io", "endpointslices", "get"): "only in pods",
    ("discovery.k8s.io", "endpointslices", "create"): "only in pods",
    ("discovery.k8s.io", "endpointslices", "update"): "only in pods",
}




def definition(group, version, kind, plural, spec, scope="Namespaced"):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": spec},
                                               "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{group}"},
            "spec": {"group": group, "scope": scope, "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural,
                                                              "singular": kind.lower()},
                     "versions": [{"name": version, "served": True, "storage": True, "subresources": {"status": {}},
                                   "schema": {"openAPIV3Schema": schema}}]}}


# The kinds of other schedulers, with those of their fields that are written or read here: others are dropped by the server. The
# schedulers themselves are not there; the tests write what they would.
ANY, TEXT, NUMBER = {"x-kubernetes-preserve-unknown-fields": True}, {"type": "string"}, {"type": "integer"}
POD_SET = {"type": "object", "required": ["name", "count", "template"],
           "properties": {"name": TEXT, "count": NUMBER, "template": {"type": "object", **ANY}}}
AMOUNTS = {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True}}
PEERS = [
    definition("kueue.x-k8s.io", "v1beta2", "Workload", "workloads", {
        "queueName": TEXT, "priority": NUMBER, "active": {"type": "boolean", "default": True},
        "podSets": {"type": "array", "minItems": 1, "maxItems": 8, "items": POD_SET}}),
    definition("kueue.x-k8s.io", "v1beta2", "ResourceFlavor", "resourceflavors", {
        "nodeLabels": {"type": "object", "additionalProperties": TEXT}, "tolerations": {"type": "array", "items": ANY}}, "Cluster"),
    definition("scheduling.volcano.sh", "v1beta1", "PodGroup", "podgroups", {
        "minMember": NUMBER, "queue": {**TEXT, "default": "default"}, "priorityClassName": TEXT, "minResources": AMOUNTS}),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    bin = os.environ.get("KUBERNETES_BIN")
    assert bin, "KUBERNETES_BIN: the folder that `tests/tools/kubernetes kube-apiserver etcd …` prints"
    one = Cluster(tmp_path_factory.mktemp("operator"), bin)
    try:
        # Defined before the cluster's own controllers start, which look for new kinds only every thirty seconds.
        one.start([*(item for item in printed() if item["kind"] == "CustomResourceDefinition"), *PEERS])
        # An image that no node has: the Deployment's own pods wait, and the tests start the operators themselves.
        one.run("install", "--apply", "--kubeflow", "--image", "missing")
        yield one
    finally:
        one.stop()


def printed():
    """What `trainyard install` prints."""
    argv = [TRAINYARD, "install", "-o", "json", "--kubeflow"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)["items"]


def token(cluster):
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/trainyard-operator/token"
    code, answer = cluster.call("POST", path, {"spec": {"expirationSeconds": 7200}})
    assert code == 201, answer
    return answer["status"]["token"]


# Seconds of a lease, until it must be renewed, and between attempts. Nobody is to follow this leader, however slow the machine is.
PATIENT = (60, 40, 2)
# A leader that does not answer is soon followed; one that a slow machine held up for a moment is not.
HASTY = (9, 6, 1)


class Operator:
    """A process of the operator, as its service account. All of a group listen at one door: only the leader does."""

    def __init__(self, cluster, name, door, *flags, seconds=PATIENT):
        self.name, self.health, self.cluster = name, free_port(), cluster
        kubeconfig = cluster.write_kubeconfig(cluster.folder / f"{name}.kubeconfig", token(cluster))
        lease, renew, retry = seconds
        argv = [TRAINYARD, "operator", "--kubeconfig", kubeconfig, "--rendezvous-listen", f"127.0.0.1:{door}",
                "--rendezvous-address", f"http://127.0.0.1:{door}", "--health-listen", f"127.0.0.1:{self.health}",
                "--pod-name", name, "--lease-seconds", lease, "--renew-seconds", renew, "--retry-seconds", retry, *flags]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINYARD_", "KUBE"))} | {"NO_COLOR": "1"}
        self.log = cluster.folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([*map(str, argv)], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: self.page("/livez"), f"{name} answers")

    def page(self, path):
        answer = self.cluster.http.request("GET", f"http://127.0.0.1:{self.health}{path}", retries=False, timeout=30)
        return answer.data.decode() if answer.status == 200 else None

    def leads(self):
        return "trainyard_operator_leads 1" in (self.page("/metrics") or "")

    def is_ready(self):
        return self.page("/readyz") == "ok"

    def used(self):
        """The rights that it has used: (group, resource, verb)."""
        lines = [line for line in self.page("/metrics").splitlines() if line.startswith("trainyard_operator_requests_total{")]
        labels = [dict(pair.split("=") for pair in line[line.index("{") + 1:line.index("}")].split(",")) for line in lines]
        return {tuple(each[name].strip('"') for name in ("group", "resource", "verb")) for each in labels}

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.send_signal(signal.SIGCONT)
        return self.process.wait(timeout=60)


@pytest.fixture
def operators(cluster, request):
    """Makes operators, and ends those that are left. What they used is collected for the last test."""
    made, shared = [], free_port()

    def make(name, *flags, door=shared, **more):
        made.append(Operator(cluster, f"{request.node.name[:40]}-{name}", door, *flags, **more))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGCONT)
            USED.update(each.used())
        each.end()
    # The next test begins with a free lease, whatever this one did.
    cluster.call("DELETE", LEASE)


USED = set()


@pytest.fixture
def place(cluster, request):
    """A namespace of its own."""
    name = request.node.name.replace("_", "-")[:50].strip("-")
    assert cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})[0] == 201
    eventually(lambda: cluster.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] == 200, "its account is made")
    yield name
    cluster.call("DELETE", f"/api/v1/namespaces/{name}")


def training(name, script, replicas=2, **spec):
    pod = {"spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "trainer"}]}}
    return {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
            "spec": {"replicas": replicas, "image": "any", "command": ["sh", "-c", script], "template": pod, **spec}}


def create(cluster, place, *jobs):
    for job in jobs:
        code, answer = cluster.call("POST", JOBS.format(place), job)
        assert code == 201, answer


def read(cluster, place, name):
    return cluster.call("GET", f"{JOBS.format(place)}/{name}")[1]


def phase(cluster, place, name):
    return read(cluster, place, name).get("status", {}).get("phase")


def pods(cluster, place):
    return cluster.call("GET", f"/api/v1/namespaces/{place}/pods")[1]["items"]


def uids(cluster, place):
    return sorted(pod["metadata"]["uid"] for pod in pods(cluster, place))


def leader(*operators):
    return eventually(lambda: next((each for each in operators if each.leads()), None), "one of them leads")


class Births(threading.Thread):
    """Every pod of a namespace that there ever was, by a watch: none is missed, however short its life."""

    def __init__(self, cluster, place):
        super().__init__(daemon=True)
        version = cluster.call("GET", f"/api/v1/namespaces/{place}/pods")[1]["metadata"]["resourceVersion"]
        path = f"/api/v1/namespaces/{place}/pods?watch=true&resourceVersion={version}"
        self.answer = cluster.http.request("GET", cluster.url + path, headers={"Authorization": "Bearer node"}, retries=False,
                                           preload_content=False, timeout=600)
        self.seen = []
        self.start()

    def run(self):
        try:
            for line in self.answer:
                event = json.loads(line)
                if event["type"] == "ADDED":
                    self.seen.append((event["object"]["metadata"]["name"], event["object"]["metadata"]["uid"]))
        except Exception:  # the test is over, and with it the stream
            pass


def wait_for_end(folder):
    """A rank that says that it is there, and ends when it is told to."""
    return f"echo up; while [ ! -e {folder}/go ]; do sleep 0.1; done; echo done"


def test_a_job_runs_to_its_end_and_is_followed(cluster, operators, place):
    one = operators("one")
    leader(one)
    text = json.dumps(training("good", 'echo "hello from $RANK of $WORLD_SIZE"'))
    done = cluster.run("run", "-", "-n", place, input=text)
    assert {f"[rank {n}] hello from {n} of 2" for n in (0, 1)} <= {line.strip() for line in done.stdout.splitlines()}, done.stdout
    bad = json.dumps(training("bad", "exit 9", restartPolicy="OnFailure", backoffLimit=1))
    assert "exit code 9" in cluster.run("run", "-", "-n", place, input=bad, code=9).stderr
    status = read(cluster, place, "bad")["status"]
    assert (status["phase"], status["restarts"]) == ("Failed", 1)
    # Ranks were started again in their pods: the launchers had met at the operator.
    assert len(pods(cluster, place)) == 4 and status["generation"] >= 2, status


def test_a_job_is_suspended_resumed_and_deleted(cluster, operators, place, tmp_path):
    one = operators("one")
    leader(one)
    create(cluster, place, training("nap", wait_for_end(tmp_path), ttlSecondsAfterFinished=0))
    eventually(lambda: phase(cluster, place, "nap") == "Running", "it runs")
    cluster.run("suspend", "nap", "-n", place)
    eventually(lambda: not pods(cluster, place) and phase(cluster, place, "nap") == "Suspended", "its pods go")
    cluster.run("resume", "nap", "-n", place)
    eventually(lambda: phase(cluster, place, "nap") == "Running", "it runs again")
    create(cluster, place, training("gone", wait_for_end(tmp_path)))
    eventually(lambda: phase(cluster, place, "gone") == "Running", "the second one runs")
    cluster.run("delete", "gone", "-n", place)
    eventually(lambda: len(pods(cluster, place)) == 2, "its pods went with it")
    (tmp_path / "go").touch()
    eventually(lambda: read(cluster, place, "nap").get("code") == 404, "it has ended, and its time to live with it")


def test_a_killed_leader_is_followed_and_the_job_goes_on(cluster, operators, place, tmp_path):
    both = operators("one", seconds=HASTY), operators("two", seconds=HASTY)
    first = leader(*both)
    second = next(each for each in both if each is not first)
    eventually(second.is_ready, "the one that waits is ready, too")
    births = Births(cluster, place)
    create(cluster, place, training("job", wait_for_end(tmp_path)))
    eventually(lambda: phase(cluster, place, "job") == "Running", "it runs")
    generation = eventually(lambda: read(cluster, place, "job")["status"].get("generation"), "its generation is told")
    before = uids(cluster, place)
    first.end(signal.SIGKILL)
    # It has work for whoever comes next, and nobody to see it yet.
    create(cluster, place, training("next", "true"))
    assert leader(second) is second
    eventually(lambda: phase(cluster, place, "next") == "Succeeded", "the second one works")
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, place, "job") == "Succeeded", "the job ends well")
    status = read(cluster, place, "job")["status"]
    assert (status.get("restarts", 0), status["generation"]) == (0, generation), "no rank was started again"
    assert sorted(uid for name, uid in births.seen if name.startswith("job-")) == before and len(births.seen) == 4, births.seen
    lease = cluster.call("GET", LEASE)[1]["spec"]
    assert lease["leaseTransitions"] == 1 and second.name in lease["holderIdentity"], lease


def test_a_leader_killed_among_its_writes_leaves_nothing_twice(cluster, operators, place):
    group = [operators("one", seconds=HASTY), operators("two", seconds=HASTY)]
    births = Births(cluster, place)
    count = 8
    for round in range(3):
        first = leader(*group)
        create(cluster, place, *(training(f"job-{round}-{n}", "true") for n in range(count)))
        eventually(lambda: len(births.seen) > 2 * count * round + 1, "its first pods are there")
        first.end(signal.SIGKILL)
        group = [each for each in group if each is not first] + [operators(f"more-{round}", seconds=HASTY)]
    names = [f"job-{round}-{n}" for round in range(3) for n in range(count)]
    eventually(lambda: all(phase(cluster, place, name) == "Succeeded" for name in names), "all end well", 300)
    made = sorted(name for name, _ in births.seen)
    assert made == sorted(f"{name}-worker-{rank}" for name in names for rank in (0, 1)), "each pod was made once"


def test_a_leader_that_was_asleep_writes_nothing_more(cluster, operators, place):
    # As pods have them, each has an address of its own: the one that sleeps holds on to its own.
    both = operators("one", door=free_port(), seconds=HASTY), operators("two", door=free_port(), seconds=HASTY)
    first = leader(*both)
    second = next(each for each in both if each is not first)
    create(cluster, place, training("early", "true"))
    eventually(lambda: phase(cluster, place, "early") == "Succeeded", "the first one works")
    first.process.send_signal(signal.SIGSTOP)
    assert leader(second) is second
    births = Births(cluster, place)
    create(cluster, place, *(training(f"late-{n}", "true") for n in range(4)))
    eventually(lambda: len(births.seen) == 8, "the second one makes their pods")
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=60) == 1, "it has lost the lead, and ends"
    assert "lost the lead" in first.log.read_text()
    eventually(lambda: all(phase(cluster, place, f"late-{n}") == "Succeeded" for n in range(4)), "all end well")
    assert len(births.seen) == 8, births.seen


def test_a_leader_that_is_told_to_end_gives_the_lease_back(cluster, operators, place):
    # Nobody would wait for so long: the lease was given back.
    both = operators("one", seconds=(3600, 1800, 1)), operators("two", seconds=(3600, 1800, 1))
    first = leader(*both)
    second = next(each for each in both if each is not first)
    assert first.end() == 0
    assert leader(second) is second
    create(cluster, place, training("job", "true"))
    eventually(lambda: phase(cluster, place, "job") == "Succeeded", "the second one works")


def gates(cluster, place):
    return [pod["metadata"]["name"] for pod in pods(cluster, place) if pod["spec"].get("schedulingGates")]


def test_a_job_goes_when_there_is_room_for_all_of_it(cluster, operators, place, tmp_path):
    leader(operators("one"))
    half = {"cpu": "1800m"}  # the node has 4, less what the operator's own pods ask for
    create(cluster, place, training("first", wait_for_end(tmp_path), resources=half))
    eventually(lambda: phase(cluster, place, "first") == "Running", "it has the node")
    create(cluster, place, training("second", "true", resources={"cpu": "1"}), training("large", "true", resources={"cpu": "3"}))
    eventually(lambda: len(gates(cluster, place)) == 4, "their pods wait at the gate")
    said = lambda: cluster.run("explain", "second", "-n", place).stdout
    eventually(lambda: "cpu" in said(), "it says what is lacking")
    (tmp_path / "go").touch()
    eventually(lambda: phase(cluster, place, "second") == "Succeeded", "it goes when there is room")
    assert len(gates(cluster, place)) == 2, "what never fits stays, with no part of it on a node"
    placed = json.loads(read(cluster, place, "second")["metadata"]["annotations"]["trainyard.dev/placement"])
    assert set(placed["pods"].values()) == {"node1"} and len(placed["pods"]) == 2


def test_a_gang_that_the_cluster_does_not_bind_is_taken_back_whole(cluster, operators, place):
    leader(operators("one", "--gang-seconds", "2"))
    births = Births(cluster, place)
    # Nobody but the cluster's scheduler looks at these terms, which the second pod cannot meet on the same node.
    spread = {"maxSkew": 1, "minDomains": 2, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
              "labelSelector": {"matchLabels": {"training.kubeflow.org/job-name": "apart"}}}
    job = training("apart", "sleep 1000")
    job["spec"]["template"]["spec"]["topologySpreadConstraints"] = [spread]
    create(cluster, place, job)
    made = lambda: [name for name, _ in births.seen]
    eventually(lambda: made().count("apart-worker-0") == 2 and made().count("apart-worker-1") == 2, "both are made anew")
    placed = lambda: json.loads(read(cluster, place, "apart")["metadata"]["annotations"]["trainyard.dev/placement"])
    assert len(gates(cluster, place)) == 2, "they wait for the next attempt"
    assert placed()["notBeforeMs"] > placed()["atMs"]
    eventually(lambda: placed()["attempt"] == 1, "the next attempt is made")
    assert "GangGivenBack" in cluster.run("events", "apart", "-n", place).stdout


def test_a_gang_that_has_no_room_apart_is_not_let_go(cluster, operators, place):
    leader(operators("one", "--gang-seconds", "2"))
    births = Births(cluster, place)
    job = training("apart", "sleep 1000")
    job["spec"]["template"]["spec"]["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"training.kubeflow.org/job-name": "apart"}}}]}}
    create(cluster, place, job)
    eventually(lambda: "FailedScheduling" in cluster.run("events", "apart", "-n", place).stdout, "it is said that it waits")
    assert len(gates(cluster, place)) == 2 and len(births.seen) == 2, births.seen


def test_a_leader_killed_while_it_lets_gangs_go_leaves_no_part_of_one(cluster, operators, place):
    group = [operators("one", seconds=HASTY), operators("two", seconds=HASTY)]
    births = Births(cluster, place)
    first = leader(*group)
    create(cluster, place, *(training(f"job-{n}", "true", replicas=3, resources={"cpu": "500m"}) for n in range(6)))
    eventually(lambda: len(births.seen) > 4, "its first pods are there")
    first.end(signal.SIGKILL)
    eventually(lambda: all(phase(cluster, place, f"job-{n}") == "Succeeded" for n in range(6)), "all end well", 300)
    assert len(births.seen) == 18, births.seen


def of_kueue(cluster, place, name):
    code, workload = cluster.call("GET", f"{KUEUE}/namespaces/{place}/workloads/{name}")
    return workload if code == 200 else None


def says(cluster, place, name, kind, message="", **more):
    """What Kueue writes into a Workload."""
    conditions = [{"type": kind, "status": "True", "message": message}]
    path = f"{KUEUE}/namespaces/{place}/workloads/{name}/status"
    assert cluster.call("PATCH", path, {"status": {"conditions": conditions, **more}}, "application/merge-patch+json")[0] == 200


def test_a_job_that_is_left_to_kueue_goes_when_it_is_admitted_and_comes_back_when_it_is_evicted(cluster, operators, place, tmp_path):
    leader(operators("one"))
    flavor = {"metadata": {"name": place}, "spec": {"nodeLabels": {"kubernetes.io/hostname": "node1"}}}
    assert cluster.call("POST", f"{KUEUE}/resourceflavors", {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", **flavor})[0] == 201
    create(cluster, place, training("job", wait_for_end(tmp_path), scheduler="kueue", queue="team", backoffLimit=0,
                                    resources={"cpu": "100m"}))
    first = eventually(lambda: of_kueue(cluster, place, "job"), "it asks for a place")
    asked = first["spec"]
    assert (asked["queueName"], [(each["name"], each["count"]) for each in asked["podSets"]]) == ("team", [("worker", 2)])
    assert asked["podSets"][0]["template"]["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "100m"}
    eventually(lambda: "queue team of Kueue" in read(cluster, place, "job").get("status", {}).get("message", ""), "it says what it waits for")
    assert not pods(cluster, place) and "queue team of Kueue" in cluster.run("explain", "job", "-n", place).stdout
    admission = {"clusterQueue": "all", "podSetAssignments": [{"name": "worker", "flavors": {"cpu": place}}]}
    says(cluster, place, "job", "Admitted", admission=admission)
    eventually(lambda: phase(cluster, place, "job") == "Running", "it runs")
    assert not gates(cluster, place)
    assert all(pod["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "node1"} for pod in pods(cluster, place))
    says(cluster, place, "job", "Evicted", "preempted")
    again = lambda: (there := of_kueue(cluster, place, "job")) and there["metadata"]["uid"] != first["metadata"]["uid"]
    eventually(again, "it asks anew")
    assert not pods(cluster, place), "its pods were gone by then"
    (tmp_path / "go").touch()
    says(cluster, place, "job", "Admitted", admission=admission)
    eventually(lambda: phase(cluster, place, "job") == "Succeeded", "it has ended well")
    assert read(cluster, place, "job")["status"].get("restarts", 0) == 0
    eventually(lambda: of_kueue(cluster, place, "job") is None, "it needs its place no more")


def test_queues_are_not_defined_beside_kueue(cluster):
    """Kueue's Workload is there, and not its queues: they are still its own."""
    before = cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")[1]["items"]
    refused = cluster.run("install", "--apply", "--kubeflow", "--queues", "--image", "missing", code=5)
    assert "this cluster has Kueue" in refused.stderr
    after = cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")[1]["items"]
    names = lambda items: {item["metadata"]["name"] for item in items}
    assert names(before) == names(after)


def test_a_job_that_is_left_to_volcano_is_a_group_of_it(cluster, operators, place):
    leader(operators("one"))
    create(cluster, place, training("job", "true", scheduler="volcano", queue="research", resources={"cpu": "100m"}))
    path = f"/apis/scheduling.volcano.sh/v1beta1/namespaces/{place}/podgroups/job"
    group = eventually(lambda: (answer := cluster.call("GET", path))[0] == 200 and answer[1], "its group is there")
    assert group["spec"] == {"minMember": 2, "queue": "research", "minResources": {"cpu": "200m"}}
    eventually(lambda: len(pods(cluster, place)) == 2, "its pods are there")
    for pod in pods(cluster, place):
        assert pod["spec"]["schedulerName"] == "volcano" and "schedulingGates" not in pod["spec"]
        assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == "job"
        # What Volcano does.
        meta = pod["metadata"]
        binding = {"metadata": {"name": meta["name"]}, "target": {"kind": "Node", "name": "node1"}}
        assert cluster.call("POST", f"/api/v1/namespaces/{place}/pods/{meta['name']}/binding", binding)[0] == 201
    eventually(lambda: phase(cluster, place, "job") == "Succeeded", "it has ended well")
    eventually(lambda: cluster.call("GET", path)[0] == 404, "its group goes with it")


def test_kinds_of_others_are_left_alone(cluster, operators, place):
    one = operators("one", "--leave", "pytorchjobs.kubeflow.org")
    leader(one)
    role = {"replicas": 1, "template": {"spec": {"containers": [
        {"name": "pytorch", "image": "any", "command": ["sh", "-c", "echo $RANK"]}]}}}
    torch = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "torch"},
             "spec": {"pytorchReplicaSpecs": {"Master": role, "Worker": role}}}
    path = f"/apis/kubeflow.org/v1/namespaces/{place}/pytorchjobs"
    assert cluster.call("POST", path, torch)[0] == 201
    assert cluster.call("POST", path, {**torch, "metadata": {"name": "theirs"},
                                       "spec": {**torch["spec"], "runPolicy": {"managedBy": "kueue.x-k8s.io/multikueue"}}})[0] == 201
    create(cluster, place, training("ours", "true"), training("theirs", "true", managedBy="example.com/other"))
    eventually(lambda: phase(cluster, place, "ours") == "Succeeded", "ours runs")
    assert {pod["metadata"]["name"] for pod in pods(cluster, place)} == {"ours-worker-0", "ours-worker-1"}
    one.end()
    two = operators("two")
    leader(two)
    done = lambda: {each["type"]: each["status"] for each in
                    cluster.call("GET", f"{path}/torch")[1].get("status", {}).get("conditions", [])}.get("Succeeded") == "True"
    eventually(done, "the kind is taken over by an operator that was not told to leave it")
    names = {pod["metadata"]["name"] for pod in pods(cluster, place)}
    assert {"torch-master-0", "torch-worker-0"} <= names and not any(name.startswith("theirs") for name in names), names


def test_the_service_account_may_do_what_was_printed_and_nothing_else(cluster, place):
    """Asks the API server itself, as the service account."""
    bearer = {"Authorization": f"Bearer {token(cluster)}", "Content-Type": "application/json"}

    def code(method, path, body=None):
        return cluster.http.request(method, cluster.url + path, headers=bearer, retries=False,
                                    body=None if body is None else json.dumps(body)).status

    assert code("GET", "/api/v1/pods") == 200
    assert code("GET", "/apis/trainyard.dev/v1alpha1/trainingjobs") == 200
    for method, path, body in [
        ("GET", "/api/v1/secrets", None),
        ("GET", f"/api/v1/namespaces/{place}/secrets/x", None),
        ("PATCH", "/api/v1/nodes/node1", {}),
        ("POST", JOBS.format(place).replace("trainingjobs", "experiments"), {}),
        ("PUT", f"{JOBS.format(place)}/x", training("x", "true")),
        ("DELETE", f"/api/v1/namespaces/{place}", None),
        ("DELETE", f"/api/v1/namespaces/{place}/pods", None),
        ("POST", f"/api/v1/namespaces/{place}/pods/x/exec", {}),
        ("POST", f"/api/v1/namespaces/{place}/pods/x/binding", {}),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", None),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", {"metadata": {"name": "x"}}),
        ("GET", f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/another", None),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "x"}}),
        ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", None),
    ]:
        assert code(method, path, body) == 403, f"{method} {path} is allowed"


def test_every_right_was_used_or_has_a_reason():
    """After all of the above: what was used is in the printed roles, and what was not is in the list at the head."""
    rights = {(rule["apiGroups"][0], rule["resources"][0], verb)
              for role in printed() if role["kind"] in ("ClusterRole", "Role") and role["metadata"]["name"] == "trainyard-operator"
              for rule in role["rules"] for verb in rule["verbs"] if not rule["resources"][0].endswith("/finalizers")}
    assert USED <= rights, f"used, and not printed: {sorted(USED - rights)}"
    assert rights - USED <= set(UNUSED), f"printed, and never used: {sorted(rights - USED - set(UNUSED))}"
    assert set(UNUSED) <= rights, f"neither printed nor to be missed: {sorted(set(UNUSED) - rights)}"
