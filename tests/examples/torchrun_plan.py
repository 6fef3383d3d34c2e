"""What torch's own torchrun makes of command lines: reads a JSON list of {"argv": […], "env": {…}} from stdin and writes one
JSON list of plans (or {"refused": …}) in the words of `trainyard torchrun --trainyard-plan`. Starts nothing."""

import json
import logging
import os
import sys
from unittest import mock

logging.disable(logging.CRITICAL)

from torch.distributed import launch, run  # noqa: E402
from torch.distributed.elastic.agent.server.api import WorkerSpec  # noqa: E402
from torch.distributed.elastic.multiprocessing import Std  # noqa: E402
from torch.distributed.elastic.rendezvous import RendezvousParameters  # noqa: E402
from torch.distributed.elastic.rendezvous import registry  # noqa: E402,F401  (registers the backends)
from torch.distributed.elastic.rendezvous.api import rendezvous_handler_registry  # noqa: E402
from torch.distributed.launcher import api  # noqa: E402

MADE_UP = "00000000-made-up"


def streams(value):
    return {"all": int(value)} if isinstance(value, Std) else {"each": {str(k): int(v) for k, v in value.items()}}


def plan(argv):
    seen = {}

    class Launch:
        def __init__(self, config, entrypoint):
            seen.update(config=config, entrypoint=entrypoint)

        def __call__(self, *arguments):
            seen["arguments"] = list(arguments)

    with mock.patch.object(run, "elastic_launch", Launch), mock.patch.object(run.uuid, "uuid4", lambda: MADE_UP):
        # `python -m torch.distributed.launch`, by the name that our torchrun has for it.
        legacy = argv[:1] == ["--legacy-launch"]
        parsed = launch.parse_args(argv[1:]) if legacy else run.parse_args(argv)
        node_rank = parsed.node_rank
        launch.launch(parsed) if legacy else run.run(parsed)
    config = seen["config"]
    parameters = RendezvousParameters(
        config.rdzv_backend, config.rdzv_endpoint, config.run_id, config.min_nodes, config.max_nodes, config.local_addr,
        **config.rdzv_configs,
    )
    address, port = api._get_addr_and_port(parameters)
    assert config.rdzv_backend in rendezvous_handler_registry._registry, f"no rendezvous backend {config.rdzv_backend}"
    WorkerSpec(role=config.role, local_world_size=config.nproc_per_node, rdzv_handler=None, entrypoint="x",
               monitor_interval=config.monitor_interval)
    configs = {k: str(v) for k, v in config.rdzv_configs.items() if k != "rank"}
    if configs.get("timeout") == "900":  # its own default
        del configs["timeout"]
    run_path = not isinstance(seen["entrypoint"], str)
    return {
        "min_nodes": config.min_nodes,
        "max_nodes": config.max_nodes,
        "nproc_per_node": config.nproc_per_node,
        "run_id": None if config.run_id == MADE_UP else config.run_id,
        "role": config.role,
        "rdzv_backend": config.rdzv_backend,
        "rdzv_endpoint": config.rdzv_endpoint,
        "rdzv_configs": configs,
        "node_rank": node_rank,
        "master": None if address is None else [address, port],
        "max_restarts": config.max_restarts,
        "local_addr": config.local_addr,
        "logs": {
            "log_dir": parsed.log_dir or None,
            "redirects": streams(config.logs_specs._redirects),
            "tee": streams(config.logs_specs._tee),
            "local_ranks_filter": sorted(config.logs_specs._local_ranks_filter) if config.logs_specs._local_ranks_filter else None,
            "duplicate_stdout_filters": config.duplicate_stdout_filters,
            "duplicate_stderr_filters": config.duplicate_stderr_filters,
        },
        "signals_to_handle": config.signals_to_handle,
        "shutdown_timeout": config.shutdown_timeout,
        "virtual_local_rank": config.virtual_local_rank,
        "command": ["run_path" if run_path else os.path.basename(seen["entrypoint"]), *seen["arguments"]],
    }


def main():
    plans = []
    base = dict(os.environ)
    for case in json.load(sys.stdin):
        os.environ.clear()
        os.environ.update(base)
        os.environ.update(case["env"])
        try:
            with open(os.devnull, "w") as silence, mock.patch.object(sys, "stderr", silence):
                plans.append(plan(case["argv"]))
        except (Exception, SystemExit) as error:
            plans.append({"refused": f"{type(error).__name__}: {error}"})
    json.dump(plans, sys.stdout)


main()
