"""`trainyard tune`: trials as jobs, from a file to the best configuration."""

import csv
import io
import json
import os
import re
import signal
import statistics
import subprocess
import tomllib
import urllib.request

import pytest

import browser
from conftest import TRAINYARD, eventually

SPACE = """
objective = {metric = "loss", goal = "minimize"}
parameters.x = {type = "float", min = -2, max = 2}
parameters.opt = {type = "categorical", choices = ["sgd", "adam"]}
parameters.momentum = {type = "float", min = 0, max = 1, when = "opt == 'sgd'"}
"""
# Each start of a trial leaves a line in a file of its own name, and one at its end.
PROGRAM = """
import os, sys, time
name, seconds, x = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
with open(f"starts/{name}", "a") as out: print(os.getpid(), *sys.argv[4:], file=out)
for step in range(1, 6):
    print({'step': step, 'loss': x * x + 1 / step}, flush=True)
    time.sleep(seconds / 5)
with open(f"starts/{name}", "a") as out: print("end", file=out)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "starts").mkdir()
    (tmp_path / "train.py").write_text(PROGRAM)
    return tmp_path


def experiment(folder, name, trials, parallel, seconds=0.0, trial=None):
    command = f'command = ["python3", "train.py", "{{trial.name}}", "{seconds}", "{{x}}", "{{opt}}", "{{momentum}}"]'
    path = folder / f"{name}.toml"
    path.write_text(f"{SPACE}\nbudget = {{trials = {trials}, parallel = {parallel}}}\n[trial]\n{trial or command}\n")
    return path


def lines(folder, name):
    path = folder / "starts" / name
    return path.read_text().splitlines() if path.exists() else []


def best_of(trials):
    told = {t["metadata"]["name"]: t["status"]["values"]["loss"] for t in trials if t["status"]["phase"] == "Succeeded"}
    return min(told.items(), key=lambda each: (each[1], int(each[0].rpartition("-")[2])))


def test_an_experiment_runs_from_its_file_to_the_best_configuration(own_server, folder):
    done = own_server.trainyard("tune", experiment(folder, "wine", 6, 3), cwd=folder)
    trials = own_server.get("trials.trainyard.dev")["items"]
    assert sorted(t["metadata"]["name"] for t in trials) == [f"wine-{n}" for n in range(6)]
    assert {t["status"]["phase"] for t in trials} == {"Succeeded"}
    for t in trials:
        spec, status = t["spec"]["parameters"], t["status"]
        assert status["values"]["loss"] == pytest.approx(spec["x"] ** 2 + 0.2)
        assert status["report"]["step"] == 5
        # A parameter that is not used is not passed on.
        given = [f"{spec['momentum']}"] if "momentum" in spec else []
        started = lines(folder, t["metadata"]["name"])
        assert started[0].split()[1:2] == [spec["opt"]] and len(started[0].split()) == 2 + len(given)
        assert started[1:] == ["end"]
    name, loss = best_of(trials)
    shown = own_server.get("experiments.trainyard.dev", "wine")["status"]
    assert shown["algorithm"] == "auto", "another version may have another default"
    assert shown["phase"] == "Succeeded" and shown["best"]["trial"] == name and shown["best"]["values"] == {"loss": loss}
    best = next(t for t in trials if t["metadata"]["name"] == name)["spec"]["parameters"]
    told = dict(line.split(" = ") for line in done.stdout.splitlines())
    assert float(told["x"]) == best["x"] and told["opt"] == f'"{best["opt"]}"'
    # The same seed suggests the same, and an experiment that has ended is replaced.
    again = own_server.trainyard("tune", "wine.toml", cwd=folder)
    assert again.stdout == done.stdout


def test_what_is_interrupted_goes_on_and_starts_no_trial_that_ended_again(folder):
    home = {**os.environ, "TRAINYARD_HOME": str(folder / "home"), "NO_COLOR": "1"}
    home.pop("KUBECONFIG", None)
    file = experiment(folder, "long", 6, 2, seconds=1.5)

    def tune(*flags):
        return subprocess.Popen([TRAINYARD, "tune", file, *flags], env=home, cwd=folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended():
        return {path.name for path in (folder / "starts").iterdir() if "end" in path.read_text()}

    def succeeded():
        """Trials of which that is on record: a process may have ended and not be counted yet when it is interrupted."""
        found = subprocess.run([TRAINYARD, "get", "trials", "-o", "json"], env=home, capture_output=True, check=True)
        trials = json.loads(found.stdout)["items"]
        return {t["metadata"]["name"] for t in trials if t.get("status", {}).get("phase") == "Succeeded"}

    def written(names):
        return {name: lines(folder, name) for name in names}

    def running():
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and str(folder) == cwd(pid)]

    def cwd(pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd") if b"train.py" in open(f"/proc/{pid}/cmdline", "rb").read() else ""
        except OSError:
            return ""

    first = tune()
    eventually(lambda: ended(), "a trial has ended")
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    assert not running(), "Ctrl-C leaves no trial behind"
    before = written(succeeded())
    refused = tune()
    assert refused.wait(timeout=60) == 5 and "--resume" in refused.stderr.read()

    second = tune("--resume")
    eventually(lambda: len(ended()) >= len(before) + 2, "others have ended")
    second.kill()
    second.wait()
    before |= written(succeeded())
    third = tune("--resume")
    out, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    assert ended() == {f"long-{n}" for n in range(6)}
    assert {name: lines(folder, name) for name in before} == before, "what is on record is not run again"
    assert not running()
    assert re.search(r"Best .*\(long-\d\)", err), err

    # A larger budget goes on from there.
    experiment(folder, "long", 8, 2)
    more = tune("--resume")
    assert more.wait(timeout=120) == 0, more.stderr.read()
    assert ended() == {f"long-{n}" for n in range(8)}


def test_a_wrong_metric_is_told_with_the_nearest_name(own_server, folder):
    file = experiment(folder, "wrong", 9, 1)
    file.write_text(file.read_text().replace('"loss"', '"los"'))
    done = own_server.trainyard("tune", file, cwd=folder, check=False)
    assert done.returncode == 1
    assert "Trial 0 failed: it told no `los` (did you mean `loss`?); it told `loss`, `step`" in done.stderr
    assert "the first 5 trials failed and none succeeded" in done.stderr


def test_trials_are_jobs_of_any_kind(own_server, folder):
    containers = f'''containers = [{{name = "main", image = "x", workingDir = "{folder}",
      command = ["python3", "train.py", "{{trial.name}}", "0", "{{x}}", "{{opt}}", "{{momentum}}"]}}]'''.replace("\n", " ")
    trial = f'''keep = "none"
[trial.job]
apiVersion = "batch/v1"
kind = "Job"
[trial.job.spec]
backoffLimit = 0
template = {{spec = {{restartPolicy = "Never", {containers}}}}}'''
    own_server.trainyard("tune", experiment(folder, "jobs", 4, 2, trial=trial), cwd=folder)
    assert {t["status"]["phase"] for t in own_server.get("trials.trainyard.dev")["items"]} == {"Succeeded"}
    eventually(lambda: not own_server.get("jobs")["items"], "jobs that are not kept are gone")
    wrong = experiment(folder, "wrong-job", 4, 2, trial=trial.replace("backoffLimit = 0", 'backoffLimit = "none"'))
    refused = own_server.trainyard("tune", wrong, cwd=folder, check=False)
    assert refused.returncode == 2 and "spec.backoffLimit" in refused.stderr
    assert own_server.kubectl("get", "experiments.trainyard.dev", "wrong-job", check=False).returncode != 0, "nothing was started"


def container(folder, seconds=0, before=""):
    run = f'{before} exec python3 train.py \\"$@\\"'
    return f'''{{image = "x", workingDir = "{folder}", command = ["sh", "-c", "{run}", "sh", "{{trial.name}}",
      "{seconds}", "{{x}}", "{{opt}}", "{{momentum}}"], name ='''.replace("\n", " ")


def batch(folder, seconds=0, before="", grace=30):
    return f'''[trial.job]
apiVersion = "batch/v1"
kind = "Job"
[trial.job.spec]
backoffLimit = 0
[trial.job.spec.template.spec]
restartPolicy = "Never"
terminationGracePeriodSeconds = {grace}
containers = [{container(folder, seconds, before)} "main"}}]'''


def test_what_a_job_told_counts_whose_pods_go_at_its_end(own_server, folder):
    trial = f'''[trial.job]
apiVersion = "kubeflow.org/v1"
kind = "PyTorchJob"
[trial.job.spec]
runPolicy = {{cleanPodPolicy = "All", ttlSecondsAfterFinished = 0}}
pytorchReplicaSpecs.Master = {{replicas = 1, restartPolicy = "Never", template = {{spec = {{containers = [{container(folder)} "pytorch"}}]}}}}}}'''
    own_server.trainyard("tune", experiment(folder, "gone", 4, 2, trial=trial), cwd=folder)
    assert {t["status"]["phase"] for t in own_server.get("trials.trainyard.dev")["items"]} == {"Succeeded"}
    eventually(lambda: not own_server.get("pytorchjobs")["items"], "its own time to live is kept afterwards")


def test_a_job_that_is_refused_fails_its_trial_and_says_why(own_server, folder):
    own_server.kubectl("create", "quota", "few", "--hard=count/jobs.batch=2")
    own_server.kubectl("create", "job", "full-2", "--image=x", "--", "true")
    done = own_server.trainyard("tune", experiment(folder, "full", 3, 1, trial=batch(folder)), cwd=folder)
    trials = {t["metadata"]["name"]: t["status"] for t in own_server.get("trials.trainyard.dev")["items"]}
    assert trials["full-0"]["phase"] == "Succeeded", trials
    assert "its job is refused: " in trials["full-1"]["message"] and "exceeded quota" in trials["full-1"]["message"]
    assert trials["full-2"]["phase"] == "Failed" and "Trial 1 failed: its job is refused" in done.stderr

    own_server.kubectl("delete", "quota", "few")
    own_server.kubectl("create", "job", "name-1", "--image=x", "--", "true")
    own_server.trainyard("tune", experiment(folder, "name", 2, 1, trial=batch(folder)), cwd=folder)
    taken = own_server.get("trials.trainyard.dev", "name-1")["status"]
    assert taken["message"] == "its job is refused: Job name-1 is there already, and belongs to something else"
    own_server.kubectl("create", "job", "first-0", "--image=x", "--", "true")
    refused = own_server.trainyard("tune", experiment(folder, "first", 2, 1, trial=batch(folder)), cwd=folder, check=False)
    assert refused.returncode == 5 and "Job first-0 is there already" in refused.stderr
    assert own_server.kubectl("get", "experiments.trainyard.dev", "first", check=False).returncode != 0, "nothing was started"


def test_a_second_ctrl_c_ends_at_once(folder):
    env = {**os.environ, "TRAINYARD_HOME": str(folder / "home"), "NO_COLOR": "1"}
    env.pop("KUBECONFIG", None)
    # It does not end when it is asked to, and would be given ten minutes.
    job = batch(folder, 900, "trap : TERM INT;", grace=600).replace("exec python3", "echo $$ > starts/pid; python3")
    file = experiment(folder, "deaf", 1, 1, trial=job.replace('\\"$@\\"', '\\"$@\\"; while :; do sleep 1; done'))
    tune = subprocess.Popen([TRAINYARD, "tune", file], env=env, cwd=folder, text=True, stderr=subprocess.PIPE)
    eventually(lambda: lines(folder, "pid") and lines(folder, "deaf-0"), "the trial runs")

    def ended():
        tune.send_signal(signal.SIGINT)
        return tune.poll() is not None

    eventually(ended, "it has ended", pause=0.5)
    assert tune.returncode == 130 and "Left" in tune.stderr.read()
    pid = lines(folder, "pid")[0]
    assert not os.path.exists(f"/proc/{pid}"), "and left nothing behind"


def test_an_experiment_is_followed_although_its_server_is_away(own_server, folder):
    file = experiment(folder, "away", 3, 1, seconds=2)
    tune = subprocess.Popen([TRAINYARD, "tune", file], env=own_server.env, cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: lines(folder, "away-0"), "a trial runs")
    own_server.kill()
    own_server.start()
    out, err = tune.communicate(timeout=120)
    assert tune.returncode == 0 and "Succeeded experiment away" in err, err


def test_what_is_wrong_on_the_command_line_is_told_of_its_option(folder):
    env = {**os.environ, "TRAINYARD_HOME": str(folder / "home"), "NO_COLOR": "1"}
    file = experiment(folder, "many", 1, 1)
    done = subprocess.run([TRAINYARD, "tune", file, "--trials", str(2**64 - 1)], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "--trials: expected a whole number" in done.stderr and "many.toml:" not in done.stderr


HOSTILE = "</script><script>document.title = 'broken'</script>"


def ended(own_server, folder, name, *flags, more=""):
    """An experiment with a hostile choice, two trials at a time; its trials fail where x is near an end."""
    file = experiment(folder, name, 24, 2)
    (folder / "train.py").write_text(PROGRAM + "if x > 1.7: sys.exit(3)\n")
    text = file.read_text().replace('["sgd", "adam"]', json.dumps(["sgd", "adam", HOSTILE]))
    file.write_text(more + text + 'env = {TOKEN = "secret-token"}\n')
    return own_server.trainyard("tune", file, *flags, cwd=folder, timeout=600)


def test_an_ended_experiment_is_exported_compared_and_reported(own_server, folder):
    done = ended(own_server, folder, "one", "--report", "one.html")
    assert "Report one.html" in done.stderr and (folder / "one.html").is_file()
    assert re.search(r"Importance x \d+ %, ", done.stderr), "the loss is x squared: " + done.stderr
    done = ended(own_server, folder, "two", more='seed = 9\nalgorithm = "random"\n')
    path = re.search(r"Report (.*)", done.stderr).group(1)
    assert path == str(own_server.home / "reports" / "default" / "two.html") and os.path.isfile(path)
    assert {file.name for file in folder.iterdir() if file.suffix == ".html"} == {"one.html"}, "nothing else is left here"

    trials = own_server.get("trials.trainyard.dev", "-l", "trainyard.dev/experiment=one")["items"]
    told = json.loads(own_server.trainyard("tune", "export", "one").stdout)
    assert [t["name"] for t in told["trials"]] == [f"one-{n}" for n in range(24)]
    for trial in trials:
        row = told["trials"][trial["spec"]["number"]]
        assert row["parameters"] == trial["spec"]["parameters"] and row["state"] == trial["status"]["phase"]
        assert row["values"] == trial["status"].get("values")
        assert row["started"] == trial["status"]["startTime"] and row["ended"] == trial["status"]["completionTime"]
    name, loss = best_of(trials)
    assert (told["best"]["trial"], told["best"]["values"]) == (name, {"loss": loss})

    rows = list(csv.DictReader(io.StringIO(own_server.trainyard("tune", "export", "one", "-o", "csv").stdout, newline="")))
    assert [row["parameters.opt"] for row in rows] == [t["parameters"]["opt"] for t in told["trials"]]
    assert [float(row["parameters.x"]) for row in rows] == [t["parameters"]["x"] for t in told["trials"]]
    best = tomllib.loads(own_server.trainyard("tune", "export", "one", "-o", "toml").stdout)
    assert best == told["best"]["parameters"]
    assert own_server.trainyard("tune", "export", "none", check=False).returncode == 3

    both = json.loads(own_server.trainyard("tune", "compare", "one", "two", "-o", "json").stdout)
    metric = both["metrics"][0]
    assert metric["best"] == min(one["best"]["value"] for one in metric["experiments"])
    assert metric["experiments"][0]["best"]["value"] == loss
    assert both["afterTrials"] == [1, 2, 5, 10, 20, 24]
    lost = [one["regret"] for one in metric["experiments"]]
    for name, regret in zip(["one", "two"], lost):
        known = [t["values"]["loss"] if t["values"] else None for t in
                 json.loads(own_server.trainyard("tune", "export", name).stdout)["trials"]]
        for after, lacks in zip(both["afterTrials"], regret):
            values = [value for value in known[:after] if value is not None]
            assert lacks == (pytest.approx(min(values) - metric["best"]) if values else None)
    assert min(regret[-1] for regret in lost) == 0
    assert [p["common"] for p in both["parameters"]] == [1, 1, 1]
    table = own_server.trainyard("tune", "compare", "one", "two").stdout
    assert re.search(r"^two +Succeeded +random +24 ", table, re.M) and "IN COMMON" in table

    page = own_server.trainyard("tune", "plot", "two", "-o", "-").stdout
    assert HOSTILE not in page and "secret-token" not in page and page.startswith("<!doctype html>")


def test_a_browser_shows_the_report(own_server, folder, tmp_path):
    ended(own_server, folder, "shown", "--report", "shown.html")
    trials = json.loads(own_server.trainyard("tune", "export", "shown").stdout)["trials"]
    good = [t for t in trials if t["state"] == "Succeeded"]
    assert 0 < len(good) < 24, "some trials fail, or less is shown"
    with browser.page(tmp_path) as page:
        for width, dark in [(1280, False), (390, True)]:
            page.open(folder / "shown.html", width=width, dark=dark)
            drawn = page.see("""Object.fromEntries([...document.querySelectorAll('section')].map(section =>
                [section.id, section.querySelectorAll('circle, path, rect, tr').length]))""")
            assert set(drawn) == {"best", "history", "importance", "contour", "parallel", "slices", "timeline", "trials",
                                  "settings"}
            assert drawn["timeline"] >= 24 and drawn["trials"] == 25, drawn
            assert page.see("document.querySelectorAll('#history circle').length") == len(good)
            assert page.see("document.querySelectorAll('#history .cross').length") == 24 - len(good)
            assert page.see("document.querySelectorAll('#slices svg').length") == 3
            assert page.see("document.querySelectorAll('#importance rect').length") == 6
            assert page.see("document.querySelectorAll('#contour rect').length") in (24 * 3, 24 * 24), 'by two of the three parameters'
            assert page.see("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label'))")
            assert page.see("document.documentElement.scrollWidth <= innerWidth"), f"it fits into {width}"
            colour = page.see("getComputedStyle(document.body).backgroundColor")
            assert (sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 200) == dark, colour
            # No number went wrong on its way into the picture.
            assert page.see("[...document.querySelectorAll('svg *')].every(node => "
                            "[...node.attributes].every(one => !/NaN|undefined|Infinity/.test(one.value)))")
        x, y = page.see("""(() => { const dot = document.querySelector('#history circle');
            dot.scrollIntoView({block: 'center'}); const box = dot.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2] })()""")
        page.click(x, y, kinds=["mouseMoved"])
        tip = page.see("document.getElementById('tip').innerText")
        number = int(re.match(r"Trial (\d+) · Succeeded", tip).group(1))
        assert trials[number]["state"] == "Succeeded"
        assert page.see("document.querySelectorAll('.on').length") > 3, "the same trial is lit in all charts"
        first = "document.querySelector('#trials tbody td').innerText"
        assert page.see(first) == str(min(good, key=lambda t: (t["values"]["loss"], t["number"]))["number"])
        page.see("[...document.querySelectorAll('#trials th button')].find(one => one.innerText === 'Trial').click()")
        assert page.see(first) == "0"
        shown = page.see("document.body.innerText")
        assert HOSTILE in shown, "as a text"
        assert page.see("document.title") == "shown · Trainyard" and page.see("document.scripts.length") == 2
        assert "secret-token" not in shown
        assert not page.said, "the page has no errors"
        assert {address.split(":")[0] for address in page.asked} <= {"file", "data"}, page.asked


def test_the_best_are_tried_again_where_the_objective_is_noisy(own_server, folder):
    """What a trial tells is x squared and noise that its number makes, so a repeat tells something else."""
    (folder / "noisy.py").write_text(
        "import random, sys; x = float(sys.argv[2]); print(f'loss={x * x + random.Random(int(sys.argv[1])).gauss(0, 1)}')")
    file = folder / "noisy.toml"
    command = '["python3", "noisy.py", "{trial.number}", "{x}", "{opt}", "{momentum}"]'
    budget = "budget = {trials = 8, parallel = 2, repeats = 3, candidates = 2}"
    file.write_text(f"{SPACE}\n{budget}\n[trial]\ncommand = {command}\n")
    done = own_server.trainyard("tune", file, cwd=folder, timeout=600)
    trials = own_server.get("trials.trainyard.dev")["items"]
    searched = [t for t in trials if "repeats" not in t["spec"]]
    repeats = [t for t in trials if "repeats" in t["spec"]]
    assert (len(searched), len(repeats)) == (8, 6)
    loss = {t["spec"]["number"]: t["status"]["values"]["loss"] for t in trials}
    first = sorted((t["spec"]["number"] for t in searched), key=loss.get)[:2]
    told = {of: [loss[t["spec"]["number"]] for t in repeats if t["spec"]["repeats"] == of] for of in first}
    assert all(len(values) == 3 and len(set(values)) == 3 for values in told.values()), told
    winner = min(first, key=lambda of: sum(told[of]))
    parameters = {t["spec"]["number"]: t["spec"]["parameters"] for t in trials}
    assert all(t["spec"]["parameters"] == parameters[t["spec"]["repeats"]] for t in repeats)

    best = own_server.get("experiments.trainyard.dev", "noisy")["status"]["best"]
    mean = sum(told[winner]) / 3
    assert (best["trial"], best["repeats"], best["parameters"]) == (f"noisy-{winner}", 3, parameters[winner])
    assert best["values"]["loss"] == pytest.approx(mean)
    # The quantile of Student's t distribution with 2 degrees of freedom at 1 - 0.025 / 2.
    reach = 6.2053 * statistics.stdev(told[winner]) / 3**0.5
    assert best["interval"]["low"] == pytest.approx(mean - reach, rel=1e-3)
    assert best["interval"]["high"] == pytest.approx(mean + reach, rel=1e-3)
    assert re.search(r"Best loss=\S+ ± \S+ \(95 %\) \(noisy-\d\)", done.stderr), done.stderr
    exported = json.loads(own_server.trainyard("tune", "export", "noisy").stdout)["best"]
    assert exported["values"] == best["values"] and exported["interval"] == best["interval"]
    assert tomllib.loads(done.stdout) == parameters[winner]

    # Of another experiment with the same seeds of noise the best are compared by their repeats.
    own_server.trainyard("tune", file, "--name", "again", "--seed", "5", cwd=folder, timeout=600)
    both = json.loads(own_server.trainyard("tune", "compare", "noisy", "again", "-o", "json").stdout)
    [apart] = both["differences"]
    assert apart["low"] < apart["apart"] < apart["high"] and 0 < apart["p"] <= 1
    other = own_server.get("experiments.trainyard.dev", "again")["status"]["best"]["values"]["loss"]
    assert apart["apart"] == pytest.approx(mean - other)
    found = {one["name"]: one["best"] for one in both["metrics"][0]["experiments"]}
    assert (found["noisy"]["trial"], found["noisy"]["value"]) == (f"noisy-{winner}", pytest.approx(mean)), "not the luckiest"
    assert found["again"]["value"] == pytest.approx(other)
    assert 'id="data"' in own_server.trainyard("tune", "plot", "noisy", "-o", "-").stdout


def test_a_trial_of_which_nothing_good_will_come_is_stopped(own_server, folder):
    file = experiment(folder, "stop", 4, 2, seconds=6)
    file.write_text("stopping = {rule = 'threshold', upper = 1.5, start = 2}\n" + file.read_text())
    done = own_server.trainyard("tune", file, cwd=folder)
    trials = {t["metadata"]["name"]: (t["spec"]["parameters"]["x"], t["status"])
              for t in own_server.get("trials.trainyard.dev")["items"]}
    hopeless = {name for name, (x, _) in trials.items() if x * x + 1 / 2 > 1.5 and x * x + 1 / 5 > 1.5}
    assert hopeless and len(hopeless) < 4, trials
    for name, (_, status) in trials.items():
        if name in hopeless:
            assert status["phase"] == "Stopped" and "which is above 1.5" in status["message"], status
            assert "end" not in lines(folder, name), "its process was ended"
            assert status["curve"][-1][0] < 5
    assert "stopped: at step" in done.stderr
    kept = {job["metadata"]["name"] for job in own_server.get("trainingjobs")["items"]}
    assert not kept & hopeless


def test_repeats_are_not_stopped(own_server, folder):
    """Those that are left would all be lucky ones. What a repeat tells here is worse than the rule allows."""
    (folder / "late.py").write_text(
        "import sys, time\n"
        "for step in (1, 2, 3): print({'step': step, 'loss': 100 if int(sys.argv[1]) > 1 else 1}, flush=True); time.sleep(0.4)")
    file = folder / "late.toml"
    command = '["python3", "late.py", "{trial.number}", "{x}", "{opt}", "{momentum}"]'
    file.write_text(f"stopping = {{rule = 'threshold', upper = 50}}\n{SPACE}\n"
                    f"budget = {{trials = 2, parallel = 2, repeats = 2, candidates = 1}}\n[trial]\ncommand = {command}\n")
    own_server.trainyard("tune", file, cwd=folder, timeout=300)
    trials = {t["spec"]["number"]: t["status"] for t in own_server.get("trials.trainyard.dev")["items"]}
    assert {number: (t["phase"], t["values"]["loss"]) for number, t in trials.items()} == {
        0: ("Succeeded", 1), 1: ("Succeeded", 1), 2: ("Succeeded", 100), 3: ("Succeeded", 100)}


RUNGS = """
import os, sys
name, folder, epochs, x = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
os.makedirs(folder, exist_ok=True)
path = os.path.join(folder, "epoch")
begin = int(open(path).read()) if os.path.exists(path) else 0
for epoch in range(begin + 1, epochs + 1):
    print({"epoch": epoch, "loss": x * x + 1 / epoch})
with open(path, "w") as out: print(epochs, file=out)
with open(f"starts/{name}", "w") as out: print(begin, epochs, file=out)
"""


def test_the_better_configurations_go_on_from_their_checkpoints(own_server, folder):
    (folder / "rungs.py").write_text(RUNGS)
    trial = 'command = ["python3", "rungs.py", "{trial.name}", "{trial.checkpoint}", "{epochs}", "{x}", "{opt}", "{momentum}"]'
    file = experiment(folder, "rungs", 13, 1, trial=trial)
    file.write_text("algorithm = 'asha'\nfidelity = {parameter = 'epochs', min = 1, max = 9}\n" + file.read_text())
    done = own_server.trainyard("tune", file, cwd=folder)
    trials = {t["spec"]["number"]: t for t in own_server.get("trials.trainyard.dev")["items"]}
    assert {t["status"]["phase"] for t in trials.values()} == {"Succeeded"}
    more = {number: t for number, t in trials.items() if "continues" in t["spec"]}
    assert len(more) >= 3 and len(more) < 8
    for number, t in trials.items():
        begin, epochs = map(int, lines(folder, f"rungs-{number}")[0].split())
        assert epochs == t["spec"]["parameters"]["epochs"]
        assert begin == {1: 0, 3: 1, 9: 3}[epochs], "it goes on where the smaller one ended"
        if number in more:
            first = trials[t["spec"]["continues"]]["spec"]["parameters"]
            assert first["x"] == t["spec"]["parameters"]["x"] and first["epochs"] == 1
    most = max(t["spec"]["parameters"]["epochs"] for t in trials.values())
    best = own_server.get("experiments.trainyard.dev", "rungs")["status"]["best"]
    assert best["parameters"]["epochs"] == most
    assert f"epochs = {most}" in done.stdout
    exported = own_server.trainyard("tune", "export", "rungs", "-o", "toml").stdout
    assert tomllib.loads(exported) == best["parameters"]
    page = own_server.trainyard("tune", "plot", "rungs", "-o", "-").stdout
    assert '["epochs",' in page.replace(" ", ""), "what the best one had most of"


@pytest.mark.parametrize("algorithm", ["hyperband", "bohb"])
def test_brackets_begin_with_many_and_the_best_of_each_rung_go_on(own_server, folder, algorithm):
    (folder / "rungs.py").write_text(RUNGS)
    trial = 'command = ["python3", "rungs.py", "{trial.name}", "{trial.checkpoint}", "{epochs}", "{x}", "{opt}", "{momentum}"]'
    file = experiment(folder, algorithm, 30, 4, trial=trial)
    file.write_text(f"algorithm = '{algorithm}'\nfidelity = {{parameter = 'epochs', min = 1, max = 9}}\n"
                    + file.read_text().replace("parallel = 4", "parallel = 4, repeats = 2, candidates = 1"))
    own_server.trainyard("tune", file, cwd=folder, timeout=600)
    trials = {t["spec"]["number"]: t for t in own_server.get("trials.trainyard.dev")["items"]}
    assert {t["status"]["phase"] for t in trials.values()} == {"Succeeded"}
    searched = {number: t for number, t in trials.items() if "repeats" not in t["spec"]}
    assert len(searched) == 30
    for number, t in trials.items():
        begin, epochs = map(int, lines(folder, f"{algorithm}-{number}")[0].split())
        assert epochs == t["spec"]["parameters"]["epochs"]
        assert begin == ({1: 0, 3: 1, 9: 3}[epochs] if "continues" in t["spec"] else 0), "it goes on where the smaller one ended"
    # The sizes of Hyperband's text for three rungs: nine begin with 1 epoch, five with 3, three with 9.
    begun = {bracket: [t["spec"]["parameters"]["epochs"] for t in searched.values()
                       if t["spec"].get("bracket", 0) == bracket and "continues" not in t["spec"]] for bracket in (0, 1)}
    assert begun == {0: [1] * 9, 1: [3] * 5}
    loss = {number: t["status"]["values"]["loss"] for number, t in searched.items()}
    for bracket, first in ((0, 1), (1, 3)):
        lowest = [n for n, t in searched.items() if t["spec"].get("bracket", 0) == bracket and "continues" not in t["spec"]]
        gone = {t["spec"]["continues"] for t in searched.values()
                if t["spec"].get("bracket", 0) == bracket and t["spec"]["parameters"]["epochs"] == 3 * first}
        best = sorted(lowest, key=loss.get)[:len(lowest) // 3]
        assert gone == set(best), "the best third went on"
    most = max(t["spec"]["parameters"]["epochs"] for t in searched.values())
    again = [t for t in trials.values() if "repeats" in t["spec"]]
    best = min((n for n, t in searched.items() if t["spec"]["parameters"]["epochs"] == most), key=loss.get)
    assert [t["spec"]["repeats"] for t in again] == [best, best]
    assert all(t["spec"]["parameters"] == searched[best]["spec"]["parameters"] | {"epochs": 9} for t in again)
    shown = own_server.get("experiments.trainyard.dev", algorithm)["status"]["best"]
    assert (shown["trial"], shown["repeats"]) == (f"{algorithm}-{best}", 2) and shown["parameters"]["epochs"] == 9


STEPS = """
import json, sys, time
number, kind = int(sys.argv[1]), sys.argv[2]
for step in range(1, 41):
    loss = {"curve": (0.1 if number < 2 else 5) + 1 / step,
            "patience": max(1 / step, 1 / 3),
            "wilcoxon": step * 7 % 5 + (0.01 * step if number else 0),
            "steps": number / 10 + 1 / step}[kind]
    print(json.dumps({"step": step, "loss": loss}), flush=True)
    time.sleep(0.1)
open(f"starts/{kind}-{number}", "w").write("end")
"""


def stopped_early(server, folder, kind, rules, trials, parallel=1):
    """The statuses of an experiment's trials by number, and which of their programs came to their end."""
    (folder / "steps.py").write_text(STEPS)
    trial = f'command = ["python3", "steps.py", "{{trial.number}}", "{kind}", "{{trial.parameters}}"]'
    file = experiment(folder, kind, trials, parallel, trial=trial)
    file.write_text(f"{rules}\n{file.read_text()}")
    server.trainyard("tune", file, cwd=folder, timeout=600)
    found = {t["spec"]["number"]: t["status"] for t in server.get("trials.trainyard.dev")["items"]}
    assert len(found) == trials
    return found, {number for number in found if lines(folder, f"{kind}-{number}")}


def test_a_curve_that_goes_nowhere_is_ended(own_server, folder):
    trials, ended = stopped_early(own_server, folder, "curve", "stopping = {rule = 'curve', trials = 2}", 3)
    assert ended == {0, 1} and [trials[n]["phase"] for n in range(3)] == ["Succeeded", "Succeeded", "Stopped"]
    assert trials[2]["message"].startswith("by step 40 it comes to about loss="), trials[2]
    assert "of the best trial with p=" in trials[2]["message"]
    curve = trials[2]["curve"]
    assert 5 <= len(curve) < 40 and curve[0] == [1, 6] and curve[-1][1] == pytest.approx(5 + 1 / curve[-1][0])
    assert len(trials[0]["curve"]) == 40, "others are compared with all of it"


def test_what_becomes_no_better_is_ended_and_counts(own_server, folder):
    trials, ended = stopped_early(own_server, folder, "patience", "stopping = {rule = 'patience', steps = 6}", 2, 2)
    assert not ended, "no program came to its end"
    for status in trials.values():
        assert status["phase"] == "Succeeded" and status["values"]["loss"] == pytest.approx(1 / 3)
        told = re.fullmatch(r"it has not become better than loss=0.33333 of step 3 for (\d+) steps", status["message"])
        assert told and 6 <= int(told.group(1)) < 37 and status["report"]["step"] == 3 + int(told.group(1)), status


def test_folds_that_are_worse_one_by_one_are_ended(own_server, folder):
    trials, ended = stopped_early(own_server, folder, "wilcoxon", "stopping = {rule = 'wilcoxon', start = 4}", 2)
    assert ended == {0} and [trials[n]["phase"] for n in range(2)] == ["Succeeded", "Stopped"]
    told = re.match(r"it is worse than the best trial at (\d+) of (\d+) steps, by chance only with p=", trials[1]["message"])
    assert told and told.group(1) == told.group(2) and int(told.group(1)) >= 4, trials[1]


def test_whoever_is_not_among_the_best_of_a_rung_is_ended(own_server, folder):
    """The resource is how far a trial is. Each is worse than those before, so nobody passes a rung that another one has passed."""
    rules = "algorithm = 'hyperband'\nfidelity = {min = 4, max = 36}"
    trials, ended = stopped_early(own_server, folder, "steps", rules, 10, 2)
    assert trials[0]["phase"] == "Succeeded" and 0 in ended
    stopped = {number: status["message"] for number, status in trials.items() if status["phase"] == "Stopped"}
    assert stopped and not stopped.keys() & ended
    assert all(re.match(r"at step (4|12) it had loss=\S+, number \d+ of \d+ trials, of which \d+ may go on", message)
               for message in stopped.values()), stopped
    # The tenth trial begins a bracket whose first rung is at step 12; alone there, it passes.
    assert trials[9]["phase"] == "Succeeded" and 9 in ended
    assert {number for number in trials if trials[number]["phase"] == "Failed"} == set()


def test_a_trial_costs_a_bounded_number_of_writes(own_server, folder):
    def writes():
        with urllib.request.urlopen(f"{own_server.url}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        return int(re.search(r"^trainyard_store_writes_total (\d+)", page, re.M).group(1))

    file = experiment(folder, "many", 40, 8, trial='command = ["/bin/echo", "loss={x}", "{opt}", "{momentum}"]')
    file.write_text("algorithm = 'random'\n" + file.read_text())
    before = writes()
    own_server.trainyard("tune", file, cwd=folder)
    trials = own_server.get("trials.trainyard.dev")["items"]
    assert len(trials) == 40 and {t["status"]["phase"] for t in trials} == {"Succeeded"}
    assert (writes() - before) / 40 <= 24, "creations, changes of status and events of trial, job, pod and service"
