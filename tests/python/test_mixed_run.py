"""No false alarm in a mixed run, and the one true hang at its end is named.

Run only with `TRAINYARD_SOAK_MINUTES`: 60 for a soak of an hour. `TRAINYARD_SEED` for another mix; `TRAINYARD_SOAK_LOGS` for a
folder that keeps the runs' output.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import pytest

from conftest import TRAINYARD

BIN = os.environ.get("TORCH_BIN")
MINUTES = float(os.environ.get("TRAINYARD_SOAK_MINUTES", "0"))
SEED = int(os.environ.get("TRAINYARD_SEED", "7"))
PROGRAM = pathlib.Path(__file__).with_name("mixed.py")
ALARMS = (" hangs: ", "for each other")
# A slow rank is one that is slow for long: of those, there is only the last, at times.
SLOW = "makes the others wait"
UNEVEN = "trainyard: rank 2 on"
# Beyond the run itself: the start, the end of what is under way, and the hang.
PATIENCE = 400
pytestmark = pytest.mark.skipif(not BIN or not MINUTES, reason="TORCH_BIN and TRAINYARD_SOAK_MINUTES are not both given")


def run(mode, number, folder):
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PATH": BIN + ":" + os.environ["PATH"]}
    command = [TRAINYARD, "launch", "--nproc", "3", "--grace", "1", "--", "python", str(PROGRAM), mode, str(MINUTES * 60),
               str(SEED + number)]
    log = open(folder / f"{mode}.log", "w")
    return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def test_what_trainings_do_is_no_hang():
    folder = pathlib.Path(os.environ.get("TRAINYARD_SOAK_LOGS") or tempfile.mkdtemp(prefix="trainyard-mixed-"))
    folder.mkdir(parents=True, exist_ok=True)
    modes = ("leader", "all", "words", "told") if MINUTES > 1 else ("leader", "told")
    runs = {mode: run(mode, number, folder) for number, mode in enumerate(modes)}
    end = time.monotonic() + MINUTES * 60 + PATIENCE
    waiting = set(runs)
    try:
        while waiting:
            for mode in sorted(waiting):
                text = (folder / f"{mode}.log").read_text()
                before, hang, after = text.partition("# the hang\n")
                assert runs[mode].poll() is None, f"{mode} ended: {text[-2000:]}"
                if hang and any(alarm in after for alarm in ALARMS):
                    waiting.discard(mode)
                assert time.monotonic() < end, f"{mode}: no hang was named: {text[-2000:]}"
            time.sleep(0.2)
        for mode in modes:
            before, _, after = (folder / f"{mode}.log").read_text().partition("# the hang\n")
            alarms = [line for line in before.splitlines() if any(alarm in line for alarm in ALARMS)]
            alarms += [line for line in before.splitlines() if SLOW in line and not line.startswith(UNEVEN)]
            assert not alarms, f"{mode}, {folder}: {alarms}"
            named = next(line for line in after.splitlines() if any(alarm in line for alarm in ALARMS))
            assert "rank 1 on" in named and "time.sleep(10_000)" in named, named
            print(mode, named, file=sys.stderr)
    finally:
        for process in runs.values():
            process.terminate()
        for process in runs.values():
            process.wait()
