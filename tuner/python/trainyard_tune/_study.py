"""A dialogue with `trainyard tune ask-tell`."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import tempfile
import threading


class Error(Exception):
    """What Trainyard says is wrong."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One configuration that is tried."""

    id: int
    params: dict
    values: "list | None" = None


class Study:
    """A search that is asked what to try, and told what came of it.

    `space` is the path of an experiment's file, or a dictionary of its parameters, each with the keys that it has in such a file. `goal` is
    "minimize" or "maximize", or one of them for each of several objectives; a file says it itself. The same questions and answers
    with the same `seed` give the same trials.

    May be used from several threads.
    """

    def __init__(self, space, *, goal="minimize", algorithm=None, seed=None, constraints=(), program=None):
        self._lock = threading.Lock()
        self._folder = None
        if isinstance(space, dict):
            self._folder = tempfile.TemporaryDirectory(prefix="trainyard-tune-")
            path = os.path.join(self._folder.name, "space.toml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(_document(space, [goal] if isinstance(goal, str) else list(goal), list(constraints)))
        else:
            path = os.fspath(space)
        program = program or os.environ.get("TRAINYARD_BIN") or shutil.which("trainyard")
        if not program:
            raise Error("the program `trainyard` is not in PATH; install it, or name it by TRAINYARD_BIN")
        words = [program, "tune", "ask-tell", path]
        words += ["--algorithm", algorithm] if algorithm else []
        words += ["--seed", str(seed)] if seed is not None else []
        # What is wrong with a file is told at once, and goes here.
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said)
        try:
            self._talk({"ask": 0})
        except BaseException:
            self.close()
            raise

    def ask(self, count=None):
        """The next trial; with `count`, a list of at most so many: fewer where the space has no more."""
        answer = self._talk({"ask": 1 if count is None else count})
        trials = [Trial(trial["id"], trial["params"]) for trial in answer["trials"]]
        if count is not None:
            return trials
        if not trials:
            raise Error(answer.get("reason", "there is nothing left to try"))
        return trials[0]

    def add(self, params):
        """A trial of this configuration, which somebody else suggested; what comes of it is told like that of any other one."""
        answer = self._talk({"add": {"params": params}})
        return Trial(answer["trials"][0]["id"], answer["trials"][0]["params"])

    def tell(self, trial, values):
        """What came of a trial: a number, one for each of several objectives, or None if it failed. NaN and infinities are failures."""
        if values is not None:
            values = [_number(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
        # It has no answer, unless something is wrong with it: what is answered next shows that nothing is.
        self._talk({"tell": {"id": _id(trial), "values": values}}, {"ask": 0})

    def report(self, trial, step, values):
        """What a trial has reached so far. True if it should be stopped, as the file's stopping rule says."""
        values = [_number(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
        return self._talk({"report": {"id": _id(trial), "step": step, "values": values}})["stop"]

    def best(self):
        """The best trial; of several objectives, a list of those that no other one beats. None, or an empty list, if none has ended."""
        answer = self._talk({"best": True})
        trials = [Trial(trial["id"], trial["params"], trial["values"]) for trial in answer["trials"]]
        several = len(trials) > 1 or any(len(trial.values) > 1 for trial in trials)
        return trials if several else trials[0] if trials else None

    def close(self):
        """Ends the program."""
        with self._lock:
            if self._process.poll() is None:
                self._process.stdin.close()
                self._process.wait()
            self._process.stdout.close()
            self._said.close()
            if self._folder:
                self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _talk(self, *lines):
        """Says lines, of which the last one has an answer, and gives that, or raises the error that came before it."""
        with self._lock:
            try:
                text = "".join(json.dumps(line) + "\n" for line in lines)
                self._process.stdin.write(text.encode())
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):
                raise Error(self._last_words()) from None
            failed = None
            while True:
                answer = self._process.stdout.readline()
                if not answer:
                    raise Error(self._last_words())
                answer = json.loads(answer)
                if "error" not in answer:
                    break
                if len(lines) == 1 or failed:
                    raise Error(answer["error"])
                failed = Error(answer["error"])
            if failed:
                raise failed
            return answer

    def _last_words(self):
        if self._said.closed:
            return "the study is closed"
        self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip()
        return said or f"trainyard ended with code {self._process.returncode}"


def _id(trial):
    return trial.id if isinstance(trial, Trial) else int(trial)


def _number(value):
    """JSON has no words for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _document(parameters, goals, constraints):
    """A space as an experiment's file."""
    named = ["value"] if len(goals) == 1 else [f"value{at}" for at in range(len(goals))]
    objectives = [{"metric": name, "goal": goal} for name, goal in zip(named, goals)]
    head = {"objective": objectives[0]} if len(goals) == 1 else {"objectives": objectives}
    if constraints:
        head["constraints"] = constraints
    lines = [f"{_key(name)} = {_value(value)}" for name, value in head.items()]
    lines += ["[parameters]"] + [f"{_key(name)} = {_value(value)}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _key(name):
    return json.dumps(str(name))


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items() if item is not None) + "}"
    return json.dumps(str(value))
