"""What two API servers answer to the same requests, with what is allowed to differ taken out.

`ACCEPTED` lists that, each with its reason; docs/api-differences.md is made from the list
(`PYTHONPATH=tests:tests/clients python tests/clients/agreement.py`) and checked against it.
"""

import contextlib
import json
import pathlib
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3
import yaml

from conftest import ROOT
from recorded import JSON

urllib3.disable_warnings()

# What kube-apiserver adds to each pod.
DEFAULT_TOLERATIONS = [{"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute",
                        "tolerationSeconds": 300} for key in ("not-ready", "unreachable")]

# (name, reason, what is taken out of both answers before they are compared)
ACCEPTED = [
    ("identities", "uids, versions, addresses and times belong to one server: of times, whether there is one is compared; of uids and "
     "of the versions of objects, which of a sequence's answers show the same one",
     lambda v: there(v, {"creationTimestamp", "deletionTimestamp", "time", "continue", "lastTransitionTime"})),
    ("links to oneself", "no object has one: the answer to a dry run is what would be stored, where kube-apiserver repeats what its "
     "writer says", lambda v: scrub(v, {"selfLink"})),
    ("generated names", "the random suffix of generateName, and uids in messages, differ from run to run", lambda v: suffixes(v)),
    ("defaults of pods", "images are not run by the cluster's kubelet here: the embedded server does not write "
     "defaults that only a container runtime or a cluster scheduler reads",
     lambda v: without_defaults(without_items(v, DEFAULT_TOLERATIONS), {
         "enableServiceLinks": [True], "preemptionPolicy": ["PreemptLowerPriority"],
         "priority": [0], "serviceAccount": ["default"],
         "serviceAccountName": ["default"]})),
    ("field ownership of one's own defaults", "managedFields are compared by manager and operation; their sets follow "
     "from the stored fields", lambda v: managers(v)),
    ("column descriptions", "tables describe their columns in our words", lambda v: scrub(v, {"description"})),
    ("words of the JSON decoder", "a malformed body is refused with the same code and reason; the text is the "
     "decoder's own, and numbers are refused in words; what a patch made of an object is not repeated", lambda v: decoder_words(v)),
    ("the client's fault is told as such", "kube-apiserver answers 500 to some requests that only their sender can mend; here "
     "they get 400 and the same message", lambda v: clients_fault(v)),
    ("dumps of Go structs", "kube-apiserver ends the refusal of a change of a pod's spec with a diff of its own structs, and shows "
     "what of a Job or of an Event is immutable, and policies, profiles and claims that do not go together, as its own struct",
     lambda v: texts(v, lambda text: without_structs(without_diff(text)))),
    ("bookmarks", "their objects hold nothing but a version; kube-apiserver shows the zeros of its structs beside it", lambda v: v),
    ("options of a deletion", "those of the query count beside a body, too: a dry run deletes nothing however it is asked for; "
     "kube-apiserver reads the query only where there is no body", lambda v: v),
    ("images", "containers need none here: what they run may be a process of the machine", lambda v: v),
    ("protobuf", "answers are JSON or YAML; requests may be protobuf",
     lambda v: texts(v, lambda text: text.replace(", application/vnd.kubernetes.protobuf", ""))),
    ("defaults of nodes", "the node agent writes its node's facts itself, and the node is ready or the server is not there",
     lambda v: scrub(v, {"taints", "allocatable", "daemonEndpoints", "nodeInfo"})),
    ("protection of claims", "kube-apiserver puts the finalizer on a claim when it is made; here the node agent does when a pod first uses it",
     lambda v: json.loads(json.dumps(v).replace('["kubernetes.io/pvc-protection"]', "[]"))),
    ("the status of quotas", "the embedded server itself counts what a quota's namespace uses; for kube-apiserver a controller does",
     lambda v: without_status(v, "ResourceQuota")),
    ("job selectors", "labels and selectors that kube-apiserver generates for a Job hold its uid, and so do the labels that a Job without "
     "any takes from its template",
     lambda v: texts(scrub(v, {"batch.kubernetes.io/controller-uid", "controller-uid", "batch.kubernetes.io/job-name", "job-name"}),
                     lambda text: re.sub(r"batch.kubernetes.io/(controller-uid|job-name)=[-\w]+", "JOB", text))),
    ("jobs deleted without a word", "their pods go with them; kube-apiserver keeps the pods, and warns, for the sake of clients from before "
     "there was garbage collection",
     lambda v: [w for w in v if "child pods are preserved by default" not in w] if isinstance(v, list) and all(isinstance(w, str) for w in v) else v),
    ("causes found twice", "kube-apiserver lists a cause once for each of its checks that finds it, which is another number from kind to kind; "
     "it tells it once", lambda v: causes_once(v)),
    ("the order of conflicts", "kube-apiserver goes through the managers of a conflicting apply in no order",
     lambda v: in_order(v)),
    ("ages", "how long ago an object was made, in tables, depends on when it is asked",
     lambda v: texts(v, lambda text: re.sub(r"^\d+(ms|s)$", "AGE", text))),
    ("media types by name", "406 and 415 name the media types that are served here",
     lambda v: {**v, "message": "not served"} if isinstance(v, dict) and v.get("kind") == "Status" and v.get("code") in (406, 415) else v),
    ("generations that nobody counts", "priority classes have none here, and an object of a kind without them has none either, whatever the "
     "apply or the PUT says that made it: nothing observes them", lambda v: without_generation(v)),
    ("suggestions", "an unknown field is told with the one that was probably meant",
     lambda v: texts(v, lambda text: re.sub(r' \(did you mean \\*"[^"]*"\?\)', "", text))),
    ("what no node here does", "options of Windows containers, iSCSI volumes and the templates of ephemeral ones are kept as they are written: "
     "pods are processes of a Linux machine, and a cluster has an API server of its own", lambda v: v),
    ("an object without a version", "a patch that takes `apiVersion` off an object of Kubernetes' own kinds is refused alike; the warnings name "
     "the fields that the object has, and not those of kube-apiserver's structs", lambda v: v),
    ("types of applied fields", "a field of the wrong type in an applied object is refused in our words",
     lambda v: {**v, "message": "malformed"} if isinstance(v, dict) and v.get("kind") == "Status" and v.get("code") == 400 and re.search(
         r"failed to (create typed|convert new).*(expected|must be of type|unable to convert)|cannot be handled as a \w+: (?!strict|converting)", v.get("message", "")) else v),
]


def without_structs(text):
    """Without what is wrong, where that is told as a struct."""
    prefixed = r"((?:spec\.template|involvedObject|related|source|eventTime): |^)"
    text = re.sub(prefixed + r"Invalid value: (\{.*?\}|null): field is immutable", r"\1Invalid value: {}: field is immutable", text)
    return re.sub(r"Invalid value: \{.*?\}: (requires indexed completion|must specify one of|at most one of|can only be set when)",
                  r"Invalid value: {}: \1", text)


def without_diff(text):
    start, diff, _ = text.partition("\n@@ ")
    return start.removesuffix("]") if "pod updates may not change fields other than" in start else start + diff


def scrub(value, names):
    if isinstance(value, dict):
        return {k: scrub(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [scrub(v, names) for v in value]
    return value


def there(value, names):
    """With a constant in the place of what these hold; an empty text says nothing."""
    if isinstance(value, dict):
        return {k: (v and "there") or None if k in names and isinstance(v, str) else there(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [there(v, names) for v in value]
    return value


class Identities:
    """Uids and versions by the order in which one server has shown them: `#1` is the first of its kind. So it is seen which answers
    show the same, and which show none at all."""

    def __init__(self):
        self.known = {}

    def named(self, value, within=None):
        if isinstance(value, list):
            return [self.named(v, within) for v in value]
        if not isinstance(value, dict):
            return value
        # The version of a list is that of its server.
        its_own = not {"items", "rows"} & value.keys()
        within = its_own if within is None else within
        return {k: self.name(k, v, within) if k in ("uid", "resourceVersion") and isinstance(v, str) and v
                else self.named(v, its_own if k == "metadata" else None) for k, v in sorted(value.items())}

    def name(self, field, value, its_own):
        if value == "there" or field == "resourceVersion" and not its_own:
            return "there"
        mine = self.known.setdefault(field, {})
        return f"#{mine.setdefault(value, len(mine) + 1)}"


def without_defaults(value, defaults):
    """Without fields that say what their absence means. What a user chose stays, and is compared."""
    if isinstance(value, dict):
        kept = {k: without_defaults(v, defaults) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in defaults.get(k, []) and value[k] not in defaults.get(k, [])}
    if isinstance(value, list):
        return [without_defaults(v, defaults) for v in value]
    return value


def without_items(value, items):
    """Without what is put into lists."""
    if isinstance(value, dict):
        return {k: without_items(v, items) for k, v in value.items()}
    if isinstance(value, list):
        return [without_items(v, items) for v in value if v not in items]
    return value


def without_status(value, kind):
    if isinstance(value, dict):
        gone = {"status"} if value.get("kind") == kind else set()
        return {k: without_status(v, kind) for k, v in value.items() if k not in gone}
    if isinstance(value, list):
        return [without_status(v, kind) for v in value]
    return value


def causes_once(value):
    details = value.get("details") if isinstance(value, dict) and value.get("kind") == "Status" else None
    causes = details.get("causes") if isinstance(details, dict) else None
    if not causes:
        return value
    return {**value, "details": {**value["details"], "causes": [each for n, each in enumerate(causes) if each not in causes[:n]]}}


def in_order(value):
    """The causes of a conflict, and the lines of its message, sorted."""
    if not isinstance(value, dict) or "Apply failed with" not in str(value.get("message")):
        return value
    causes = sorted(value["details"]["causes"], key=lambda cause: json.dumps(cause, sort_keys=True))
    return {**value, "message": sorted(value["message"].split("\n")), "details": {**value["details"], "causes": causes}}


# Kinds of which kube-apiserver counts no changes, or should not.
UNCOUNTED = ("PriorityClass", "ConfigMap", "Secret", "ServiceAccount", "Service", "Event", "Lease", "StorageClass", "LimitRange",
             "PersistentVolumeClaim")


def without_generation(value):
    if isinstance(value, dict):
        if value.get("kind") in UNCOUNTED:
            value = {**value, "metadata": scrub(value.get("metadata"), {"generation"})}
        return {k: without_generation(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_generation(v) for v in value]
    return value


def texts(value, change):
    if isinstance(value, dict):
        return {k: texts(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [texts(v, change) for v in value]
    return change(value) if isinstance(value, str) else value


def suffixes(value):
    text = re.sub(r"(gen-|Bad_)[a-z0-9]{5}", r"\1xxxxx", json.dumps(value))
    text = re.sub(r"resourceVersion:\d+", "resourceVersion:N", text)
    text = re.sub(r"10\.96\.\d+\.\d+", "10.96.x.x", re.sub(r"in (record|the precondition) \(\d+\)", r"in \1 (N)", text))
    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID", text))


def decoder_words(value):
    if isinstance(value, dict) and [cause.get("field") for cause in (value.get("details") or {}).get("causes", [])] == ["patch"]:
        said = re.search(r"strict decoding error: .*", value["message"])
        return {**value, "message": said[0] if said else "malformed", "details": "patch"}
    if not isinstance(value, dict) or value.get("kind") != "Status" or value.get("code") != 400:
        return value
    message = re.sub(r"(cannot be handled as a \w+: )(?!strict|converting).*", r"\1...", value.get("message", ""), flags=re.S)
    message = re.sub(r"query parameter \w+: (\".*\") is not a number in range|strconv\.\w+: parsing (\".*\"): invalid syntax",
                     r"\1\2 is not a number", message)
    message = re.sub(r"(invalid resource version: )?resourceVersion: Invalid value: (\S+): .*", r"resourceVersion \2", message)
    message = re.sub(r"(Object 'Kind' is missing in).*", r"\1 ...", message, flags=re.S)
    message = re.sub(r"no kind is registered for the type v1.Scale .*", "JSON", message)
    message = re.sub(r"(invalid continue token: ).*", r"\1...", message)
    return {**value, "message": "malformed" if re.search("json|yaml|base64", message.lower()) else message}


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


def normalise(value, namespace, identities):
    value = json.loads(json.dumps(identities.named(value)).replace(namespace, "NS"))
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


def is_heartbeat(event):
    """Bookmarks come when a server finds it time, but for the one that ends the initial events."""
    annotations = bare(event["type"], event["object"]).get("metadata", {}).get("annotations", {}) if "object" in event else {}
    return event.get("type") == "BOOKMARK" and "k8s.io/initial-events-end" not in annotations


def is_root_ca(event):
    """A controller publishes this one in every namespace."""
    return isinstance(event[1], dict) and event[1].get("metadata", {}).get("name") == "kube-root-ca.crt"


def bare(kind, event):
    """Of a bookmark what it says; its version is that of its server."""
    if kind != "BOOKMARK":
        return event
    rows = event.get("rows") or [{"object": event}]
    return {"metadata": there((rows[0].get("object") or {}).get("metadata") or {}, {"resourceVersion"})}


def place(path):
    """`configmaps/a` of a path below that object's."""
    parts = path.split("?")[0].strip("/").split("/")
    at = 2 if parts[0] == "api" else 3
    if parts[at:at + 1] == ["namespaces"] and len(parts) > at + 2:
        at += 2
    own = "/scale" if parts[at + 2:] == ["scale"] else ""
    return "/".join(parts[at:at + 2]) + own


def merged(value, patch):
    """A JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    made = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), change)
    return made


class Memory:
    """What one server has answered so far, for the steps that refer to it: `{version:configmaps/a}` is the version of the
    object that was answered last, `{first:configmaps/a}` the first one, `{uid:configmaps/a}` its uid; `{continue}` and
    `{list}` are the token and the version of the last list. Servers have answered the same, so both know it or neither."""

    def __init__(self, namespace, since):
        self.words = {"ns": namespace, "since": since, "continue": "none", "list": since}
        self.first, self.last = {}, {}

    def fill(self, text):
        text = text.replace("{ns}", self.words["ns"])
        text = re.sub(r"\{(since|continue|list)\}", lambda m: self.words[m[1]], text)
        return re.sub(r"\{(version|first|uid):([-.\w/]+)\}", lambda m: self.of(m[1], m[2]), text)

    def of(self, what, name):
        meta = (self.first if what == "first" else self.last).get(name, {}).get("metadata", {})
        return meta.get("uid", "none") if what == "uid" else meta.get("resourceVersion", self.words["since"])

    def body(self, body):
        if isinstance(body, dict) and "$changed" in body:
            return merged(self.last.get(self.fill(body["$changed"]), {}), json.loads(self.fill(json.dumps(body["by"]))))
        return json.loads(self.fill(json.dumps(body)))

    def note(self, path, answer):
        if not isinstance(answer, dict) or answer.get("kind") in ("Status", "Table"):
            return
        meta = answer.get("metadata", {})
        if "ownerReferences" in meta and "dryRun=" in path:
            # There are no such owners: an object that is made of this answer would be collected, where there is a collector.
            answer = {**answer, "metadata": {k: v for k, v in meta.items() if k != "ownerReferences"}}
        if "items" in answer:
            self.words["list"] = meta.get("resourceVersion", "1")
            self.words["continue"] = meta.get("continue") or "none"
        elif "name" in meta and not answer["kind"].startswith("Partial"):
            name = place(path)
            name = name if "/" in name else f"{name}/{meta['name']}"
            self.first.setdefault(name, answer)
            self.last[name] = answer


class Target:
    def __init__(self, url, token=None):
        self.url, self.headers = url, {"authorization": f"Bearer {token}"} if token else {}
        self.http = urllib3.PoolManager(cert_reqs="CERT_NONE", maxsize=32)

    def call(self, method, path, body=None, content_type=JSON, accept=JSON):
        return self.answer(method, path, body, content_type, accept)[:2]

    def answer(self, method, path, body=None, content_type=JSON, accept=JSON):
        raw = body if isinstance(body, str) or body is None else json.dumps(body)
        answer = self.http.request(method, self.url + path, body=raw, headers={
            **self.headers, "content-type": content_type, "accept": accept, "user-agent": "recorded/1"}, timeout=120)
        said = answer.data.decode()
        with contextlib.suppress(ValueError):
            said = yaml.safe_load(said) if "yaml" in answer.headers.get("content-type", "") else json.loads(said)
        return answer.status, said, answer.headers.getlist("warning")

    def events(self, path, since, accept=JSON, seconds=1):
        joiner = "&" if "?" in path else "?"
        start = f"&resourceVersion={since}" if since else ""
        answer = self.http.request("GET", f"{self.url}{path}{joiner}watch=1{start}&timeoutSeconds={seconds}",
                                   headers={**self.headers, "accept": accept}, timeout=120)
        try:
            seen = [json.loads(line) for line in answer.data.splitlines() if line]
        except ValueError:
            seen = [json.loads(answer.data)]
        return [(e["type"], e["object"]) if "object" in e else (e["kind"], e) for e in seen if not is_heartbeat(e)]

    def play(self, scenario, seconds=1):
        """The answers to a scenario; each watch lasts for as many seconds."""
        namespace = f"t-{uuid.uuid4().hex[:8]}"
        self.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        since = self.call("GET", f"/api/v1/namespaces/{namespace}/configmaps")[1]["metadata"]["resourceVersion"]
        memory, identities, bodies, transcript = Memory(namespace, since), Identities(), [], []
        for method, path, *rest in scenario:
            path = memory.fill(path(bodies) if callable(path) else path)
            if method in ("watch", "watch from here"):
                seen = self.events(path, since if method == "watch" else None, *rest, seconds=seconds)
                transcript.append([[kind, normalise(bare(kind, each), namespace, identities)]
                                   for kind, each in seen if not is_root_ca((kind, each))])
                continue
            body = memory.body(rest[0](bodies) if rest and callable(rest[0]) else rest[0] if rest else None)
            status, answer, warnings = self.answer(method, path, body, *rest[1:])
            bodies.append(answer)
            memory.note(path, answer)
            answer = normalise(answer, namespace, identities)
            status = answer["code"] if status == 500 and isinstance(answer, dict) else status
            transcript.append([status, answer, normalise(warnings, namespace, identities)])
        self.call("DELETE", f"/api/v1/namespaces/{namespace}")
        return transcript


@dataclass
class Difference:
    """The first step that two servers answered differently."""

    at: int
    step: list
    mine: object
    real: object

    @property
    def codes(self):
        return tuple(answer[0] if answer and isinstance(answer[0], int) else None for answer in (self.mine, self.real))

    @property
    def where(self):
        """Places in the answer, whatever the index in a list."""
        return sorted({re.sub(r"\d+", "N", at) for at in places(self.mine, self.real)})

    @property
    def may_be_late(self):
        """Whether a slow machine alone may be why: events that did not come while a watch lasted, and what the real one gave up."""
        words = json.dumps(self.real)
        return self.step[0].startswith("watch") or any(word in words for word in ("request timed out", "Timeout: ", "Too large resource"))

    def __str__(self):
        return (f"step {self.at} {self.step[0]} {self.step[1]}\n  embedded: {json.dumps(self.mine, sort_keys=True)}\n"
                f"  real:     {json.dumps(self.real, sort_keys=True)}")


def places(mine, real, at=""):
    if type(mine) is not type(real) or not isinstance(mine, (dict, list)) or isinstance(mine, list) and len(mine) != len(real):
        return [at]
    keys = sorted({*mine, *real}) if isinstance(mine, dict) else range(len(mine))
    absent = object()
    found = []
    for key in keys:
        a, b = (value.get(key, absent) if isinstance(value, dict) else value[key] for value in (mine, real))
        if a is absent or b is absent:
            found.append(f"{at}.{key}")
        elif a != b:
            found += places(a, b, f"{at}.{key}")
    return found


def differences(scenario, embedded, kubernetes, patience=(1, 10)):
    """All steps that are answered differently, played on both at the same time; anew with longer watches where time may be why."""
    for seconds in patience:
        found = played(scenario, embedded, kubernetes, seconds)
        if not any(each.may_be_late for each in found):
            break
    return found


def played(scenario, embedded, kubernetes, seconds):
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(lambda target: target.play(scenario, seconds), (embedded, kubernetes))
    return [Difference(n, step, mine, real) for n, (step, mine, real) in enumerate(zip(scenario, ours, theirs)) if mine != real]


# What is known and not mended yet.
OPEN = []


def page():
    lines = ["# Where the embedded API server differs from kube-apiserver", "",
             "Recorded requests (`tests/clients/recorded.py`) and requests generated from seeds (`tests/clients/generated.py`,",
             "`GENERATED_SEEDS=5000` plays more of them) go to both; after the following is taken out, the answers",
             "and the watch streams are the same" + (", but for [what is not mended yet](#not-mended-yet)" if OPEN else "")
             + ". Made by `tests/clients/agreement.py`.", "",
             "| what differs | why |", "|---|---|"]
    lines += [f"| {name} | {reason} |" for name, reason, _ in ACCEPTED]
    if OPEN:
        lines += ["", "## Not mended yet", "", "Where the two still differ, as far as is known.", ""]
    return "\n".join(lines + [f"- {what}" for what in OPEN]) + "\n"


if __name__ == "__main__":
    (pathlib.Path(ROOT) / "docs" / "api-differences.md").write_text(page())
