"""Queues on a cluster of real parts (see nodes.py) that has no Kueue: the kinds are those that `trainyard install --queues` defines, and
the operator decides by them as the embedded server does."""

import json

import pytest

from nodes import OURS, USERS, Job, cluster, eventually, on, uids  # noqa: F401  (the cluster is a fixture)

INSTALL = ("--queues",)
# The nodes have room for far more than the queues: who waits, waits for quota.
PREEMPTION = {"reclaimWithinCohort": "LowerPriority", "withinClusterQueue": "LowerPriority"}


def objects(version, cohort):
    """Two teams with a CPU each, in Kueue's older or newer words."""
    word = {"v1beta1": "cohort", "v1beta2": "cohortName"}[version]
    for team in ("team-a", "team-b"):
        flavor = {"name": "default", "resources": [{"name": "cpu", "nominalQuota": 1}]}
        spec = {"namespaceSelector": {}, "preemption": PREEMPTION, **({word: cohort} if cohort else {}),
                "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [flavor]}]}
        yield {"apiVersion": f"kueue.x-k8s.io/{version}", "kind": "ClusterQueue", "metadata": {"name": team}, "spec": spec}
        yield {"apiVersion": f"kueue.x-k8s.io/{version}", "kind": "LocalQueue",
               "metadata": {"name": team, "namespace": "default"}, "spec": {"clusterQueue": team}}


@pytest.fixture
def queues(cluster, request):
    version, cohort = request.param
    cluster.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects(version, cohort))}))
    active = lambda: all(condition(cluster.get("clusterqueue", team), "Active") == "True" for team in ("team-a", "team-b"))
    eventually(active, "the operator has seen them", 60)
    yield
    cluster.kubectl("delete", "localqueues", "--all")
    cluster.kubectl("delete", "clusterqueues", "--all")


def condition(thing, kind):
    conditions = thing.get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == kind), None)


def create(cluster, name, queue, cpu, kind="TrainingJob", priority=0):
    """A job of two pods that ask for so much each."""
    job = Job(cluster, kind, name)
    manifest = job.manifest(container={"resources": {"requests": {"cpu": cpu}}})
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    if kind == "TrainingJob":
        manifest["spec"]["priority"] = priority
    return job.create(manifest)


def change(cluster, kind, name, patch):
    cluster.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(patch))


def gated(job):
    return [name for name, pod in job.pods().items() if pod["spec"].get("schedulingGates")]


def waiting(cluster):
    """What `trainyard queue` says: (queue, reason) by job."""
    said = json.loads(cluster.trainyard("queue", "-o", "json").stdout)["waiting"]
    return {each["name"]: (each["queue"], each["code"]) for each in said}


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_a_job_waits_for_the_quota_of_its_queue_and_is_told_so(cluster, queues):
    first = create(cluster, "first", "team-a", "400m")
    first.runs()
    second = create(cluster, "second", "team-a", "400m")
    other = create(cluster, "other", "team-b", "400m", kind="PyTorchJob")
    other.runs()
    eventually(lambda: len(gated(second)) == 2, "both its pods wait at the gate", 60)
    said = lambda: cluster.trainyard("explain", "second").stdout
    words = "it asks for 0.8 CPUs, of the quota of ClusterQueue team-a 0.2 CPUs are left"
    eventually(lambda: words in said(), "its reason is told, with numbers", 60)
    assert "raise the nominalQuota of ClusterQueue team-a by 0.6 CPUs" in said()
    assert waiting(cluster) == {"second": ("team-a", "QuotaUsed")}
    queue = cluster.trainyard("queue").stdout
    assert [line.split()[:4] for line in queue.splitlines() if line.startswith("team-")] == \
        [["team-a", "-", "1", "1"], ["team-b", "-", "0", "1"]], queue
    status = lambda team: cluster.get("clusterqueue", team)["status"]
    eventually(lambda: (status("team-a")["pendingWorkloads"], status("team-a")["admittedWorkloads"]) == (1, 1), "its queue says it", 60)
    before = uids(second.pods())
    first.ends()
    second.runs()
    assert uids(second.pods()) == before, "the pods that waited are those that run"
    second.ends()
    other.ends()
    eventually(lambda: (status("team-a")["pendingWorkloads"], status("team-a")["admittedWorkloads"]) == (0, 0), "its queue is empty", 60)


@pytest.mark.parametrize("queues", [("v1beta1", "all")], indirect=True)
def test_a_queue_takes_back_what_it_lent(cluster, queues):
    borrower = create(cluster, "borrower", "team-a", "800m")
    before = borrower.now()["pods"]
    owner = create(cluster, "owner", "team-b", "400m", priority=5)
    # What has just begun is left alone for a minute.
    after = eventually(lambda: owner.phase() == "Running" and len(owner.pods()) == 2 and owner.pods(), "its owner has it", 240)
    assert not any(pod["spec"].get("schedulingGates") for pod in after.values())
    eventually(lambda: len(gated(borrower)) == 2, "the borrower waits again, as a whole", 120)
    assert not set(uids(borrower.pods()).values()) & set(uids(before).values())
    eventually(lambda: waiting(cluster) == {"borrower": ("team-a", "QuotaUsed")}, "and is told so", 60)
    owner.ends()
    borrower.runs()
    assert borrower.restarts() == 0, "making room counts as no restart"
    borrower.ends()


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_a_queue_that_is_stopped_lets_nobody_go(cluster, queues):
    stop = lambda policy: change(cluster, "clusterqueue", "team-a", {"spec": {"stopPolicy": policy}})
    stop("Hold")
    job = create(cluster, "held", "team-a", "100m")
    eventually(lambda: waiting(cluster) == {"held": ("team-a", "QueueStopped")}, "it waits, and says for what", 60)
    assert condition(cluster.get("clusterqueue", "team-a"), "Active") == "False"
    stop("None")
    before = uids(job.runs())
    stop("HoldAndDrain")
    eventually(lambda: len(gated(job)) == 2 and not set(uids(job.pods()).items()) & set(before.items()), "what runs is stopped", 120)
    eventually(lambda: waiting(cluster) == {"held": ("team-a", "QueueStopped")}, "and waits", 60)
    stop("None")
    job.runs()
    assert job.restarts() == 0
    job.ends()


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_a_queue_is_for_its_namespaces_and_its_nodes(cluster, queues):
    change(cluster, "clusterqueue", "team-a", {"spec": {"namespaceSelector": {"matchLabels": {"team": "a"}}}})
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "default"},
              "spec": {"nodeLabels": {"pool": "new"}}}
    cluster.kubectl("create", "-f", "-", input=json.dumps(flavor))
    job = create(cluster, "apart", "team-a", "100m")
    eventually(lambda: waiting(cluster) == {"apart": ("", "NoQueue")}, "it is not for this namespace", 60)
    cluster.kubectl("label", "namespace", "default", "team=a")
    eventually(lambda: waiting(cluster) == {"apart": ("team-a", "NoMatchingNode")}, "it has no node so far", 60)
    eventually(lambda: "pool=new" in cluster.trainyard("explain", "apart").stdout, "and is told which would do", 60)
    cluster.kubectl("label", "node", "node2", "pool=new")
    assert set(on(job.runs()).values()) == {"node2"}, "although its pods would rather be apart"
    job.ends()
    cluster.kubectl("label", "node", "node2", "pool-")
    cluster.kubectl("label", "namespace", "default", "team-")
    cluster.kubectl("delete", "resourceflavor", "default")


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_a_gang_is_given_the_first_flavor_with_quota_and_its_tolerations(cluster, queues):
    taint = {"key": "cheap", "value": "yes", "effect": "NoSchedule"}
    tolerations = [{"key": "cheap", "operator": "Exists"}]
    for name, node, more in (("firm", "node1", {}), ("spot", "node2", {"nodeTaints": [taint], "tolerations": tolerations})):
        flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": name},
                  "spec": {"nodeLabels": {"pool": name}, **more}}
        cluster.kubectl("create", "-f", "-", input=json.dumps(flavor))
        cluster.kubectl("label", "node", node, f"pool={name}")
    cluster.kubectl("taint", "node", "node2", "cheap=yes:NoSchedule")
    quota = [{"name": name, "resources": [{"name": "cpu", "nominalQuota": cpus}]} for name, cpus in (("firm", "300m"), ("spot", "400m"))]
    change(cluster, "clusterqueue", "team-a", {"spec": {"resourceGroups": [{"coveredResources": ["cpu"], "flavors": quota}]}})
    flavors = lambda job: {pod["metadata"]["annotations"]["trainyard.dev/flavors"] for pod in job.pods().values()}
    first = create(cluster, "first", "team-a", "100m")
    assert set(on(first.runs()).values()) == {"node1"} and flavors(first) == {"cpu=firm"}
    # A tenth of a CPU is left of one flavor, and a gang has both its pods of the same.
    second = create(cluster, "second", "team-a", "100m")
    assert set(on(second.runs()).values()) == {"node2"} and flavors(second) == {"cpu=spot"}
    for pod in second.pods().values():
        assert tolerations[0] in pod["spec"]["tolerations"], pod["spec"]["tolerations"]
    third = create(cluster, "third", "team-a", "150m")
    eventually(lambda: waiting(cluster) == {"third": ("team-a", "QuotaUsed")}, "there is not enough of either", 60)
    assert "of flavor firm" in cluster.trainyard("explain", "third").stdout
    first.ends()
    assert set(on(third.runs()).values()) == {"node1"}
    second.ends()
    third.ends()
    cluster.kubectl("taint", "node", "node2", "cheap-")
    for name, node in (("firm", "node1"), ("spot", "node2")):
        cluster.kubectl("label", "node", node, "pool-")
        cluster.kubectl("delete", "resourceflavor", name)


def guest(kind, name, spec, command):
    """A Deployment or a Job of the cluster's own, with our gate and a queue in the template of its pods."""
    container = {"name": "main", "image": USERS, "command": command, "resources": {"requests": {"cpu": "400m"}}}
    template = {"metadata": {"labels": {"app": name, "kueue.x-k8s.io/queue-name": "team-a"}},
                "spec": {"containers": [container], "schedulingGates": [{"name": "trainyard.dev/gang"}],
                         "terminationGracePeriodSeconds": 1, **({"restartPolicy": "Never"} if kind == "Job" else {})}}
    version = {"Job": "batch/v1", "Deployment": "apps/v1"}[kind]
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {**spec, "template": template}}


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_pods_of_anybody_at_our_gate_wait_for_quota(cluster, queues):
    web = guest("Deployment", "web", {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}}, ["sleep", "1000"])
    cluster.kubectl("create", "-f", "-", input=json.dumps(web))
    ready = lambda: cluster.get("deployment", "web")["status"].get("readyReplicas")
    eventually(lambda: ready() == 2, "there is quota for both", 120)
    cluster.kubectl("create", "-f", "-", input=json.dumps(guest("Job", "step", {}, ["true"])))
    pods = lambda name: json.loads(cluster.kubectl("get", "pods", "-l", f"app={name}", "-o", "json"))["items"]
    [step] = eventually(lambda: pods("step"), "its pod is made", 60)
    eventually(lambda: waiting(cluster) == {step["metadata"]["name"]: ("team-a", "QuotaUsed")}, "it waits for quota", 60)
    assert pods("step")[0]["spec"]["schedulingGates"]
    assert [line.split()[:4] for line in cluster.trainyard("queue").stdout.splitlines() if line.startswith("team-a")] == [["team-a", "-", "1", "2"]]
    cluster.kubectl("scale", "deployment", "web", "--replicas=1")
    eventually(lambda: cluster.get("job", "step")["status"].get("succeeded") == 1, "it goes in the place of the other one", 120)
    assert pods("step")[0]["metadata"]["uid"] == step["metadata"]["uid"]
    cluster.kubectl("delete", "deployment/web", "job/step")


SEARCH = """
name = "search"
seed = 7
[objective]
metric = "loss"
goal = "minimize"
[parameters.x]
type = "int"
min = 0
max = 100
[parameters.y]
type = "float"
min = 1.0
max = 2.0
step = 0.5
[budget]
trials = 6
parallel = 3
[trial]
image = "%s"
queue = "team-a"
resources = {cpu = "400m"}
command = ["sh", "-c", "sleep 3; echo loss=$(( ({x} - 30) * ({x} - 30) )) y={y}"]
"""


@pytest.mark.parametrize("queues", [("v1beta2", None)], indirect=True)
def test_trials_wait_for_quota_and_an_experiment_goes_on_without_the_leader(cluster, queues, tmp_path):
    file = tmp_path / "search.toml"
    file.write_text(SEARCH.replace('image = "%s"\n', ""))
    assert "on a cluster every pod needs" in cluster.trainyard("tune", file, code=2).stderr
    file.write_text(SEARCH % USERS)
    done = cluster.trainyard("tune", file, "--detach")
    assert "Started" in done.stderr
    trials = lambda: cluster.get("trials.trainyard.dev", "-l", "trainyard.dev/experiment=search")["items"]
    pods = lambda: cluster.get("pods", "-l", "trainyard.dev/experiment=search")["items"]
    phase = lambda trial: trial.get("status", {}).get("phase")
    # Of three trials at the same time the quota has room for two.
    third = eventually(lambda: waiting(cluster), "one of them waits", 120)
    assert set(third.values()) == {("team-a", "QuotaUsed")}, third
    running = [pod for pod in pods() if pod["status"]["phase"] == "Running"]
    assert len(running) <= 2, [pod["metadata"]["name"] for pod in running]
    eventually(lambda: any(phase(trial) == "Succeeded" for trial in trials()), "the first has ended", 120)
    cluster.kill(cluster.leader())
    experiment = lambda: cluster.get("experiments.trainyard.dev", "search")
    eventually(lambda: experiment()["status"]["phase"] == "Succeeded", "whoever leads next ends it", 240)
    found, status = trials(), experiment()["status"]
    assert sorted(trial["metadata"]["name"] for trial in found) == [f"search-{number}" for number in range(6)]
    assert [phase(trial) for trial in found] == ["Succeeded"] * 6
    losses = {trial["metadata"]["name"]: (trial["spec"]["parameters"]["x"] - 30) ** 2 for trial in found}
    assert {trial["metadata"]["name"]: trial["status"]["values"]["loss"] for trial in found} == losses
    assert status["best"]["values"]["loss"] == min(losses.values())
    version = experiment()["metadata"]["resourceVersion"]
    rows = cluster.trainyard("tune", "export", "search", "-o", "csv").stdout.splitlines()
    assert len(rows) == 1 + 6, rows
    # The server has other words for 1.0, which are no reason to write it again.
    assert experiment()["metadata"]["resourceVersion"] == version
    cluster.trainyard("delete", "experiments.trainyard.dev", "search")
    eventually(lambda: not trials() and not pods(), "and all of it goes", 60)


def test_a_definition_of_somebody_else_is_left_as_it_is(cluster):
    name = "cohorts.kueue.x-k8s.io"
    part = lambda: cluster.get("crd", name)["metadata"].get("labels", {}).get("app.kubernetes.io/part-of")
    assert part() == "trainyard"
    again = lambda: cluster.trainyard("install", "--apply", "--kubeflow", *INSTALL, "--image", OURS).stdout
    cluster.kubectl("label", "crd", name, "app.kubernetes.io/part-of=kueue", "--overwrite")
    assert f"{name} is there already, and not ours" in again() and part() == "kueue"
    cluster.kubectl("label", "crd", name, "app.kubernetes.io/part-of=trainyard", "--overwrite")
    assert f"{name} applied" in again()



def test_without_a_queue_nothing_changes_and_nothing_was_refused(cluster):
    job = Job(cluster, "TrainingJob", "plain").create()
    job.runs()
    job.ends()
    refused = cluster.refused()
    assert not refused, refused[:3]
