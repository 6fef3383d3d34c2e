"""A cluster for tests: real etcd, kube-apiserver, kube-scheduler and kube-controller-manager, with RBAC, from
`tests/tools/kubernetes`; and one node whose kubelet is `Node` below.

`Node` stands in for kubelet and container runtime, which need root and containerd: it runs the command of a bound pod as
a process, writes the pod's status through the status subresource, and serves the container's log to the API server over
HTTPS, as a kubelet does. Pods whose image is `missing` wait in ImagePullBackOff.
"""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.parse
from datetime import datetime, timezone

import urllib3

from conftest import TRAINYARD, eventually, free_port

urllib3.disable_warnings()

USERS = [("admin", "system:masters"), ("dev", "team"), ("system:kube-scheduler", ""), ("system:kube-controller-manager", "system:masters"),
         ("node", "system:masters")]
CONTROLLERS = ["job", "deployment", "replicaset", "garbage-collector", "namespace", "serviceaccount"]


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """Makes certificates that our API server, and our users, believe in."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                "-subj", "/CN=authority", "-keyout", self.folder / "ca.key", "-out", self.folder / "ca.crt")
        self.file = self.folder / "ca.crt"

    def issue(self, name, subject, days=30):
        key, crt, csr = (self.folder / f"{name}.{end}" for end in ("key", "crt", "csr"))
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject,
                "-keyout", key, "-out", csr)
        openssl("x509", "-req", "-in", csr, "-CA", self.file, "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                "-days", days, "-extfile", self.folder / "names", "-out", crt)
        return crt, key


class Cluster:
    def __init__(self, folder, bin, more=None):
        """`more` has flags by program."""
        self.folder, self.bin, self.more = pathlib.Path(folder), bin, more or {}
        self.port, self.processes, self.node = free_port(), [], None
        self.url = f"https://127.0.0.1:{self.port}"
        self.http = urllib3.PoolManager(cert_reqs="CERT_NONE", maxsize=16)
        self.kubeconfig = self.folder / "kubeconfig"

    def spawn(self, program, *flags):
        log = open(self.folder / f"{program}.log", "wb")
        argv = [f"{self.bin}/{program}", *map(str, flags), *self.more.get(program, ())]
        self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def start(self, definitions=()):
        self.authority = Authority(self.folder / "pki")
        crt, key = self.authority.issue("server", "/CN=kube-apiserver")
        account = self.folder / "account.key"
        openssl("genrsa", "-out", account, "2048")
        (self.folder / "tokens").write_text("".join(f'{user},{user},{user},"{group}"\n' for user, group in USERS))
        client, peer = free_port(), free_port()
        self.spawn("etcd", "--data-dir", self.folder / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}",
                   "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                   "--log-level", "error", "--unsafe-no-fsync")
        self.spawn("kube-apiserver", "--etcd-servers", f"http://127.0.0.1:{client}", "--secure-port", self.port,
                   "--bind-address", "127.0.0.1", "--cert-dir", self.folder / "certs", "--tls-cert-file", crt,
                   "--tls-private-key-file", key, "--client-ca-file", self.authority.file, "--authorization-mode", "RBAC",
                   "--token-auth-file", self.folder / "tokens", "--service-account-issuer", "https://kubernetes.default.svc",
                   "--service-account-signing-key-file", account, "--service-account-key-file", account,
                   "--service-cluster-ip-range", "10.96.0.0/16", "--kubelet-preferred-address-types", "InternalIP",
                   "--disable-admission-plugins", "TaintNodesByCondition")
        self.write_kubeconfig(self.kubeconfig, "admin")
        eventually(lambda: self.http.request("GET", self.url + "/readyz", headers={"Authorization": "Bearer admin"},
                                             retries=False).status == 200, "kube-apiserver is ready", 300)
        # Before the controllers: the garbage collector looks for new kinds only every thirty seconds.
        for each in definitions:
            assert self.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", each)[0] == 201
        for each in definitions:
            spec = each["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            eventually(lambda: self.call("GET", path)[0] == 200, f"{path} is served")
        for name in ("kube-controller-manager", "kube-scheduler"):
            config = self.folder / f"{name}.kubeconfig"
            self.write_kubeconfig(config, f"system:{name}")
            more = ["--controllers", ",".join(f"{name}-controller" for name in CONTROLLERS)] if "manager" in name else []
            self.spawn(name, "--kubeconfig", config, "--authentication-kubeconfig", config, "--authorization-kubeconfig",
                       config, "--leader-elect=false", "--secure-port", free_port(), "--bind-address", "127.0.0.1", *more)
        self.node = Node(self).start()
        eventually(lambda: self.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200,
                   "the namespace has its service account")
        return self

    def stop(self):
        if self.node:
            self.node.stop()
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def write_kubeconfig(self, file, token, *, context="real", server=None, authority=None, user=None):
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "c", "cluster": {"server": server or self.url,
                                                   "certificate-authority": str(authority or self.authority.file)}}],
            "users": [{"name": "u", "user": user or {"token": token}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }
        pathlib.Path(file).write_text(json.dumps(config))
        return file

    def call(self, method, path, body=None, type="application/json"):
        headers = {"Authorization": "Bearer node", "Content-Type": type}
        answer = self.http.request(method, self.url + path, headers=headers, retries=False,
                                   body=None if body is None else json.dumps(body))
        return answer.status, json.loads(answer.data or b"null")

    def command(self, *args, context="real", kubeconfig=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINYARD_", "KUBE"))}
        env |= {"KUBECONFIG": str(kubeconfig or self.kubeconfig), "TRAINYARD_HOME": str(self.folder / "home"), "NO_COLOR": "1"}
        return [TRAINYARD, *map(str, args), "--context", context], env

    def run(self, *args, code=0, input=None, timeout=120, **more):
        argv, env = self.command(*args, **more)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, input=input, timeout=timeout)
        assert done.returncode == code, f"trainyard {args} -> {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done


# A call that failed (no answer, no JSON, or no list in it) is one that kubelets and operators make again.
FAILED_CALLS = urllib3.exceptions.HTTPError, ValueError, KeyError


class Container:
    """The process of a pod, with the lines that it has written."""

    def __init__(self, pod):
        self.spec = pod["spec"]["containers"][0]
        labels = pod["metadata"].get("labels", {})
        # Images would bring `trainyard` along, and these pods have none.
        env = {"PATH": f"{os.path.dirname(TRAINYARD)}:{os.environ['PATH']}"}
        fields = {"metadata.uid": pod["metadata"]["uid"], "status.podIP": "127.0.0.1"}
        for variable in self.spec.get("env", []):
            index = labels.get("batch.kubernetes.io/job-completion-index", "")
            field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            env[variable["name"]] = variable.get("value", fields.get(field, index))
        self.started, self.lines, self.over, self.more = now(), [], None, threading.Condition()
        argv = self.spec.get("command", []) + self.spec.get("args", [])
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        start_new_session=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.more:
                self.lines.append((now(fraction=True), line.rstrip("\n")))
                self.more.notify_all()
        code = self.process.wait()
        with self.more:
            self.over = code if code >= 0 else 128 - code
            self.more.notify_all()

    def kill(self):
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end by itself at any moment
                os.killpg(self.process.pid, signal.SIGKILL)

    def state(self):
        if self.over is None:
            return {"running": {"startedAt": self.started}}
        reason = "Completed" if self.over == 0 else "Error"
        return {"terminated": {"exitCode": self.over, "reason": reason, "startedAt": self.started, "finishedAt": now()}}


class Node:
    def __init__(self, cluster):
        self.cluster, self.containers, self.reported = cluster, {}, {}
        self.stopping = threading.Event()
        # How many lines a log stream carries before it breaks, once: set by tests.
        self.cut = None

    def start(self):
        crt, key = self.cluster.authority.issue("kubelet", "/CN=node1")
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                node.serve_log(self)

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(crt, key)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        amounts = {"cpu": "4", "memory": "8Gi", "pods": "50"}
        self.cluster.call("POST", "/api/v1/nodes", {"metadata": {"name": "node1", "labels": {"kubernetes.io/hostname": "node1"}}})
        self.cluster.call("PATCH", "/api/v1/nodes/node1/status", {"status": {
            "capacity": amounts, "allocatable": amounts, "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.server.server_port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}}, "application/merge-patch+json")
        self.loop = threading.Thread(target=self.work, daemon=True)
        self.loop.start()
        return self

    def stop(self):
        self.stopping.set()
        self.loop.join()
        self.server.shutdown()
        for container in self.containers.values():
            container.kill()

    def work(self):
        while not self.stopping.wait(0.1):
            with contextlib.suppress(*FAILED_CALLS):
                self.look()

    def look(self):
        _, pods = self.cluster.call("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1")
        there = {pod["metadata"]["uid"] for pod in pods["items"]}
        for pod in pods["items"]:
            self.look_at(pod)
        for uid, container in self.containers.items():
            if uid not in there:  # deleted without grace
                container.kill()

    def look_at(self, pod):
        meta, container = pod["metadata"], self.containers.get(pod["metadata"]["uid"])
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if "deletionTimestamp" in meta:
            if container:
                container.kill()
            self.cluster.call("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})
            return
        image = pod["spec"]["containers"][0]["image"]
        if image == "missing":
            state, phase = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "missing"'}}, "Pending"
        else:
            if container is None:
                container = self.containers[meta["uid"]] = Container(pod)
            state = container.state()
            phase = "Running" if container.over is None else "Failed" if container.over else "Succeeded"
        kind = (phase, *state)
        if self.reported.get(meta["uid"]) == kind:
            return
        ready = "True" if phase == "Running" else "False"
        answer, _ = self.cluster.call("PATCH", path + "/status", {"status": {
            "phase": phase, "startTime": now(), "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now()}],
            "containerStatuses": [{"name": pod["spec"]["containers"][0]["name"], "image": image, "imageID": "", "ready":
                                   ready == "True", "restartCount": 0, "state": state}]}},
            "application/strategic-merge-patch+json")
        if answer == 200:
            self.reported[meta["uid"]] = kind

    def serve_log(self, request):
        url = urllib.parse.urlparse(request.path)
        query = urllib.parse.parse_qs(url.query)
        _, pods = self.cluster.call("GET", f"/api/v1/namespaces/{url.path.split('/')[2]}/pods")
        uid = next(pod["metadata"]["uid"] for pod in pods["items"] if pod["metadata"]["name"] == url.path.split("/")[3])
        container = self.containers.get(uid)
        request.send_response(200 if container else 400)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Connection", "close")
        request.end_headers()
        if container is None:  # a kubelet's words
            request.wfile.write(b'container "c" in pod "p" is waiting to start: trying and failing to pull image')
            return
        sent, follow = 0, "follow" in query
        while True:
            with container.more:
                container.more.wait_for(lambda: len(container.lines) > sent or container.over is not None or not follow, 10)
                lines, over = container.lines[sent:], container.over is not None
            for time_, line in lines:
                if follow and self.cut is not None and sent >= self.cut:
                    self.cut = None
                    return
                text = f"{time_} {line}" if "timestamps" in query else line
                request.wfile.write(f"{text}\n".encode())
                request.wfile.flush()
                sent += 1
            if over or not follow:
                return


def now(fraction=False):
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f000Z" if fraction else "%Y-%m-%dT%H:%M:%SZ")


class TrainingOperator(threading.Thread):
    """Stands in for Kubeflow's training operator: pods with its labels, and conditions from what becomes of them."""

    def __init__(self, cluster, namespace="default"):
        super().__init__(daemon=True)
        self.cluster, self.root, self.stopping = cluster, f"/api/v1/namespaces/{namespace}/pods", threading.Event()
        self.jobs = f"/apis/kubeflow.org/v1/namespaces/{namespace}/pytorchjobs"

    def run(self):
        while not self.stopping.wait(0.1):
            with contextlib.suppress(*FAILED_CALLS):
                for job in self.cluster.call("GET", self.jobs)[1]["items"]:
                    self.look_at(job)

    def look_at(self, job):
        name = job["metadata"]["name"]
        _, pods = self.cluster.call("GET", f"{self.root}?labelSelector=training.kubeflow.org%2Fjob-name%3D{name}")
        suspended = job["spec"].get("runPolicy", {}).get("suspend", False)
        phases = [pod["status"].get("phase") for pod in pods["items"]]
        if suspended:
            for pod in pods["items"]:
                self.cluster.call("DELETE", f"{self.root}/{pod['metadata']['name']}")
            return self.report(job, "Suspended")
        if not pods["items"]:
            rank = 0
            for role, spec in job["spec"]["pytorchReplicaSpecs"].items():
                for index in range(spec.get("replicas", 1)):
                    self.create(job, role.lower(), index, rank, spec)
                    rank += 1
            return self.report(job, "Created")
        if "Failed" in phases:
            return self.report(job, "Failed")
        if all(phase == "Succeeded" for phase in phases):
            return self.report(job, "Succeeded")
        if "Running" in phases:
            return self.report(job, "Running")

    def create(self, job, role, index, rank, spec):
        meta = job["metadata"]
        template = json.loads(json.dumps(spec["template"]["spec"]))
        template["restartPolicy"] = "Never"
        template["containers"][0].setdefault("env", []).append({"name": "RANK", "value": str(rank)})
        labels = {"job-name": meta["name"], "replica-type": role, "replica-index": str(index)}
        self.cluster.call("POST", self.root, {
            "metadata": {"name": f"{meta['name']}-{role}-{index}",
                         "labels": {f"training.kubeflow.org/{key}": value for key, value in labels.items()},
                         "ownerReferences": [{"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": meta["name"],
                                              "uid": meta["uid"], "controller": True}]},
            "spec": template})

    def report(self, job, kind):
        conditions = job.get("status", {}).get("conditions", [])
        if any(c["type"] == kind and c["status"] == "True" for c in conditions):
            return
        conditions = [{**c, "status": "False"} for c in conditions]
        conditions.append({"type": kind, "status": "True", "reason": f"PyTorchJob{kind}", "message": f"PyTorchJob is {kind}",
                           "lastTransitionTime": now()})
        self.cluster.call("PATCH", f"{self.jobs}/{job['metadata']['name']}/status", {"status": {"conditions": conditions}},
                          "application/merge-patch+json")
