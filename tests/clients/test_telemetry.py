"""What Trainyard says of itself: one trace through all hops of a job, JSON log lines, and the page of metrics."""

import concurrent.futures
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
import urllib.request

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.openmetrics import parser

from conftest import TRAINYARD, Server, eventually

JOB = """\
apiVersion: trainyard.dev/v1alpha1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  procsPerReplica: 2
  command: [sh, -c, "echo trace=$TRACEPARENT spans=$TRAINYARD_SPANS.; exit {code}"]
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps every span."""

    def __init__(self):
        self.spans, self.lock = [], threading.Lock()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):
        with self.lock:
            for resource in request.resource_spans:
                assert any(a.key == "service.name" and a.value.string_value == "trainyard"
                           for a in resource.resource.attributes)
                self.spans.extend(span for scope in resource.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace):
        with self.lock:
            return [span for span in self.spans if span.trace_id.hex() == trace]


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.stop(None)


def run(folder, env, name="traced", code=0):
    manifest = folder / f"{name}.yaml"
    manifest.write_text(JOB.format(name=name, code=code))
    started = time.monotonic()
    done = subprocess.run([TRAINYARD, "run", str(manifest)], env=env, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done, time.monotonic() - started


def environment(home, **more):
    env = {**os.environ, "TRAINYARD_HOME": str(home), "NO_COLOR": "1", **more}
    env.pop("KUBECONFIG", None)
    return env


def check_one_trace(spans, output):
    by_name = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    root = by_name["run traced"][0]
    assert not root.parent_span_id
    for name in ["API create trainingjobs", "trainingjobs plan", "trainingjobs create", "gangs bind",
                 "start pod traced-worker-0", "rank 0", "rank 1"]:
        assert name in by_name, f"no span {name!r} among {sorted(by_name)}"
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans), "every span has an id of its own"
    for span in spans:
        assert span is root or span.parent_span_id in ids, f"{span.name}: its parent is not in the trace"
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    container = next(span for span in spans if span.name.startswith("container "))
    assert container.parent_span_id == by_name["start pod traced-worker-0"][0].span_id
    told = {word.split("-")[2] for line in output.splitlines() for word in line.split() if word.startswith("trace=")}
    ranks = {by_name[f"rank {rank}"][0].span_id.hex() for rank in (0, 1)}
    assert told == ranks, "each rank's TRACEPARENT names its own span"
    for rank in (0, 1):
        assert by_name[f"rank {rank}"][0].parent_span_id == container.span_id


def trace_of(output):
    traces = {word.split("-")[1] for line in output.splitlines() for word in line.split() if word.startswith("trace=")}
    assert len(traces) == 1, output
    return traces.pop()


def test_a_run_is_one_trace(tmp_path, collector):
    env = environment(tmp_path / "home", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    done, _ = run(tmp_path, env)
    trace = trace_of(done.stdout)
    assert "spans=." in done.stdout, "how ranks are told of is not the program's business"
    check_one_trace(collector.of_trace(trace), done.stdout)


def test_a_run_against_a_server_is_one_trace(tmp_path, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    server = Server(tmp_path / "home").start()
    try:
        done, _ = run(tmp_path, server.env)
    finally:
        server.stop()
    check_one_trace(collector.of_trace(trace_of(done.stdout)), done.stdout)


def test_a_failed_rank_is_marked(tmp_path, collector):
    env = environment(tmp_path / "home", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    done, _ = run(tmp_path, env, code=3)
    ranks = [span for span in collector.of_trace(trace_of(done.stdout)) if span.name.startswith("rank ")]
    assert any(span.status.code == 2 and "exit code 3" in span.status.message for span in ranks), ranks


def test_without_a_collector_nothing_is_said_and_nothing_waits(tmp_path):
    plain, _ = run(tmp_path, environment(tmp_path / "home"))
    assert "trace= " in plain.stdout, "no TRACEPARENT without traces"
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        for endpoint in [f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:1"]:
            done, seconds = run(tmp_path, environment(tmp_path / "home", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint))
            assert seconds < 60, f"{endpoint}: {seconds} s"
            assert "otel" not in done.stderr.lower() and "opentelemetry" not in done.stderr.lower(), done.stderr


def test_json_logs(tmp_path):
    server = Server(tmp_path / "home")
    log = tmp_path / "up.json"
    with log.open("wb") as out:
        process = subprocess.Popen([TRAINYARD, "up", "--listen", "127.0.0.1:0", "--log-format", "json", "-v"],
                                   env=server.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        eventually(lambda: "control plane ready" in log.read_text(), "it is ready")
        info = json.loads((server.home / "server.json").read_text())
        run(tmp_path, server.env, name="logged", code=1)
    finally:
        process.terminate()
        process.wait(timeout=120)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        assert {"timestamp", "level", "target", "message"} <= line.keys(), line
    assert any(line.get("url") == info["url"] for line in lines), "fields stand beside the message"
    assert info["token"] not in log.read_text(), "no token is logged"


def metrics(server):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        families = list(parser.text_string_to_metric_families(answer.read().decode()))
    return {family.name: family for family in families}


def total(families, family, sample=None, **labels):
    name = sample or f"{family}_total"
    found = families[family].samples if family in families else []
    return sum(s.value for s in found if s.name == name and labels.items() <= s.labels.items())


def test_metrics_move_as_jobs_do(own_server, tmp_path):
    before = metrics(own_server)
    run(pathlib.Path(tmp_path), own_server.env, name="good")
    run(pathlib.Path(tmp_path), own_server.env, name="bad", code=1)
    jobs = {"job_namespace": "default", "framework": "trainyard"}
    after = eventually(lambda: (m := metrics(own_server)) and
                       total(m, "training_operator_jobs_failed", **jobs) == 1 and m, "the failure is counted")
    assert total(after, "training_operator_jobs_created", **jobs) == 2
    assert total(after, "training_operator_jobs_successful", **jobs) == 1
    assert total(after, "training_operator_jobs_deleted", **jobs) == 0
    assert total(after, "training_operator_jobs_restarted", **jobs) == 0
    for family, labels in {
        "trainyard_api_requests": {"verb": "create", "resource": "trainingjobs", "code": "201"},
        "trainyard_store_commits": {}, "trainyard_store_writes": {},
        "trainyard_controller_plans": {"controller": "trainingjobs"},
        "trainyard_controller_actions": {"controller": "gangs", "action": "bind"},
        "created_pods": {},
    }.items():
        assert total(after, family, **labels) > total(before, family, **labels), family
    assert total(after, "trainyard_store_writes") >= total(after, "trainyard_store_commits")
    latency = "trainyard_api_request_duration_seconds"
    assert total(after, latency, f"{latency}_count", verb="create") > 0
    assert total(after, "trainyard_api_watches", "trainyard_api_watches") > 0
    own_server.trainyard("delete", "good")
    eventually(lambda: total(metrics(own_server), "training_operator_jobs_deleted", **jobs) == 1, "the deletion is counted")
