"""Steps that are put between those of a generated sequence: of what the sequence itself does not come upon.

They are drawn from another stream of numbers, so that the sequences of known seeds stay what they are.
"""

import copy
import json

from generated_kinds import Kind
from generated_wrong import at
from recorded import APPLY, JSON, JSON_PATCH, MERGE, STRATEGIC

# What nobody means to say of an object's metadata. Each is refused, or changes less than it says.
METADATA = [
    {"labels": {"bad key": "x"}},
    {"labels": {"x": "bad value"}},
    {"labels": {"x/y/z": "1"}},
    {"annotations": {"bad key": "x"}},
    {"annotations": {"Example.com/Key": "x"}},
    {"finalizers": ["bad"]},
    {"finalizers": ["example.com/hold", "example.com/new"]},
    {"finalizers": ["bad key/x"]},
    {"managedFields": [{}]},
    {"managedFields": []},
    {"managedFields": None},
    {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "", "uid": "u"}]},
    {"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]},
    {"uid": "other"},
    {"uid": None},
    {"resourceVersion": None},
    {"resourceVersion": "1"},
    {"creationTimestamp": None},
    {"creationTimestamp": "2001-01-01T00:00:00Z"},
    {"generation": 7},
    {"deletionTimestamp": "2001-01-01T00:00:00Z"},
    {"deletionGracePeriodSeconds": 3},
    {"selfLink": "/x"},
    {"name": "other"},
    {"namespace": "elsewhere"},
]
# What a body says that it is. Keys of Kubernetes' own kinds are read in any case.
IDENTITIES = [
    {"kind": "Nonsense"},
    {"kind": None},
    {"kind": ""},
    {"kind": "Pod", "apiVersion": "v1"},
    {"apiVersion": "v9"},
    {"apiVersion": "kubeflow.org/v2"},
    {"apiVersion": ""},
    {"kind": "Status"},
]
BODIES = ["null", "[]", "{}", '"text"', "5", "true", '{"Kind": "X"}', '{"kind": 5}', '{"metadata": []}', '{"metadata": null}', "{", ""]

# Of a Job, as `OF_PODS` is of a pod.
OF_JOBS = [
    ("podFailurePolicy", {"rules": [{}]}),
    ("podFailurePolicy", {"rules": []}),
    ("podFailurePolicy", {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}),
    ("podFailurePolicy", {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "bad type", "status": "Sometimes"}]}]}),
    ("podFailurePolicy", {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]}),
    ("podFailurePolicy", {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0, 2]}}]}),
    ("podFailurePolicy", {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "Sometimes", "values": []}}]}),
    ("podFailurePolicy", {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [3], "containerName": "x"}}]}),
    ("podFailurePolicy", {"rules": [{"action": "Sometimes", "onExitCodes": {"operator": "In", "values": [3]},
                                     "onPodConditions": [{"type": "a", "status": "True"}]}]}),
    ("successPolicy", {"rules": []}),
    ("successPolicy", {"rules": [{"succeededIndexes": "0"}]}),
    ("completionMode", "Sometimes"),
    ("maxFailedIndexes", 1),
    ("backoffLimitPerIndex", 1),
    ("managedBy", "no-domain"),
]
# The same of indexed ones.
OF_INDEXED_JOBS = [
    {"successPolicy": {"rules": []}},
    {"successPolicy": {"rules": [{}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "0,2"}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "0-9"}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "1-0"}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "1,1"}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "x", "succeededCount": -1}]}},
    {"successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 2}]}},
    {"successPolicy": {"rules": [{"succeededCount": 9}]}},
    {"maxFailedIndexes": 9, "backoffLimitPerIndex": 1},
    {"maxFailedIndexes": 1},
    {"backoffLimitPerIndex": 1},
    {"completions": None},
]
# What pods may do on their node, and devices that they claim.
OF_SECURITY = [
    ("securityContext", {"seccompProfile": {"type": "Localhost"}}),
    ("securityContext", {"seccompProfile": {"type": "Localhost", "localhostProfile": "/a/../b"}}),
    ("securityContext", {"seccompProfile": {"type": "RuntimeDefault"}}),
    ("securityContext", {"seccompProfile": {"type": "Sometimes"}}),
    ("securityContext", {"seccompProfile": {}}),
    ("securityContext", {"appArmorProfile": {"type": "Localhost"}}),
    ("securityContext", {"appArmorProfile": {"type": "Unconfined", "localhostProfile": "x"}}),
    ("securityContext", {"appArmorProfile": {"type": "Sometimes"}}),
    ("securityContext", {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}),
    ("securityContext", {"sysctls": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}),
    ("securityContext", {"sysctls": [{"name": "Bad..Name", "value": "1"}, {"name": "", "value": "1"}]}),
    ("securityContext", {"fsGroupChangePolicy": "Sometimes"}),
    ("containers.0.securityContext", {"seccompProfile": {"type": "Localhost"}}),
    ("containers.0.securityContext", {"appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}}),
    ("resourceClaims", [{"name": "gpu"}]),
    ("resourceClaims", [{"name": "gpu", "resourceClaimName": "one"}, {"name": "gpu", "resourceClaimName": "two"}]),
    ("resourceClaims", [{"name": "Bad_Name", "resourceClaimName": "Bad_Name"}]),
    ("containers.0.resources", {"claims": [{"name": "gpu"}]}),
]


def metadata_changed(draw, kind):
    name = kind.named(draw.choice("aab"))
    meta = copy.deepcopy(draw.choice(METADATA))
    if draw.often(0.25):
        meta |= copy.deepcopy(draw.choice(METADATA))
    made = {"metadata": meta}
    # Beside something else, that is refused now and then, too.
    if draw.often(0.4):
        made |= (kind.changes or kind.content)(draw)
    dry = "?dryRun=All" if draw.often(0.3) or "ownerReferences" in meta else ""
    how = draw.randrange(4)
    if how == 0:
        meta.setdefault("uid", None)
        return ["PUT", f"{kind.path}/{name}{dry}", {"$changed": f"{kind.plural}/{name}", "by": made}]
    if how == 1 and kind.namespaced and not {"managedFields", "uid"} & meta.keys():
        meta.setdefault("name", name)
        whole = {"apiVersion": kind.api_version, "kind": kind.kind, **made}
        return ["PATCH", f"{kind.path}/{name}?fieldManager=one{dry.replace('?', '&')}", whole, APPLY]
    return ["PATCH", f"{kind.path}/{name}{dry}", made, MERGE if kind.is_custom or how == 2 else STRATEGIC]


def said_to_be(draw, kind):
    name = kind.named(draw.choice("aab"))
    said = draw.choice(IDENTITIES)
    how = draw.randrange(3)
    if how == 0:
        made = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, **kind.content(draw)}
        return ["POST", kind.path, {k: v for k, v in (made | said).items() if v is not None}]
    if how == 1:
        return ["PUT", f"{kind.path}/{name}", {"$changed": f"{kind.plural}/{name}", "by": {**said, "metadata": {"uid": None}}}]
    # Without a version an event shows more of the structs that it is read into.
    if kind.kind == "Event" and not said.get("apiVersion", "v1"):
        said = {"kind": "Nonsense"}
    return ["PATCH", f"{kind.path}/{name}", said, MERGE]


def raw(draw, kind):
    name = kind.named(draw.choice("aab"))
    body = draw.choice(BODIES)
    how = draw.randrange(4)
    # Services without a name are looked an address for.
    if how == 0 and kind.kind != "Service":
        return ["POST", kind.path, body]
    if how == 1:
        return ["PUT", f"{kind.path}/{name}", body]
    return ["PATCH", f"{kind.path}/{name}", body, draw.choice([MERGE, JSON_PATCH] + [STRATEGIC] * (not kind.is_custom))]


def wrongly_made(draw, kind):
    """A Job with policies that are wrong, or a pod that may not do what it wants."""
    made = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": kind.named(draw.choice("abc"))}, **kind.content(draw)}
    if kind.kind == "Job" and draw.often(0.6):
        if draw.often(0.5):
            made["spec"] |= {"completionMode": "Indexed", "completions": 3, "parallelism": 1} | copy.deepcopy(draw.choice(OF_INDEXED_JOBS))
        else:
            at(made["spec"], *draw.choice(OF_JOBS))
    else:
        spec = made["spec"]
        at(spec.get("template", {}).get("spec", spec), *draw.choice(OF_SECURITY))
    return ["POST", kind.path, {**made, "spec": {k: v for k, v in made["spec"].items() if v is not None}}]


def watched_more(draw, kind):
    """With the options of a watch in any mix, and the columns of a table."""
    taken = draw.some({
        "allowWatchBookmarks": draw.choice(["true", "false"]),
        "sendInitialEvents": draw.choice(["true", "true", "false"]),
        "resourceVersionMatch": draw.choice(["NotOlderThan", "NotOlderThan", "Exact", ""]),
        "resourceVersion": draw.choice(["0", "{since}", "", "{first:%s/%s}" % (kind.plural, kind.named("a"))]),
        "labelSelector": kind.selector(draw.choice(["x", "x%3D1", "!y", "x%20in%20(1,2),y"])),
        "fieldSelector": "metadata.name%3D" + kind.named(draw.choice("ab")),
    }, 0.5)
    if not kind.namespaced:
        taken["labelSelector"] = kind.selector("x")
    # The real one is told late of versions that its other resources have reached.
    if kind.is_custom and taken.get("sendInitialEvents") == "true":
        taken["resourceVersion"] = "0"
    view = draw.choice([JSON, JSON, "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"])
    return ["watch from here", kind.path + "?" + "&".join(f"{name}={value}" for name, value in taken.items()), view]


def between(draw, about, steps):
    """The steps with some more between them."""
    steps = list(steps)
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        kind: Kind = draw.choice(about)
        makers = [(metadata_changed, 5), (said_to_be, 2), (raw, 1), (watched_more, 2)]
        if kind.kind in ("Job", "Pod", "Deployment", "ReplicaSet"):
            makers.append((wrongly_made, 4))
        made = json.loads(json.dumps(draw.choices(*zip(*makers))[0](draw, kind)))
        steps.insert(draw.randint(1, len(steps)), made)
    return steps
