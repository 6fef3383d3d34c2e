"""The Python package of the samplers, and Optuna with a sampler that asks them."""

import math
import sys

import optuna
import pytest

from conftest import ROOT, TRAINYARD

sys.path.insert(0, str(ROOT / "tuner" / "python"))
from trainyard_tune import Error, Study  # noqa: E402
from trainyard_tune.optuna import TrainyardSampler  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"x": {"type": "float", "min": -1, "max": 1}, "kind": {"type": "categorical", "choices": ["a", "b"]}}


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setenv("TRAINYARD_BIN", TRAINYARD)


def score(params):
    return -(params["x"] - 0.3) ** 2 - (params["kind"] == "a")


def test_a_study_is_asked_and_told():
    with Study(SPACE, goal="maximize", seed=3) as study:
        assert study.best() is None
        for _ in range(25):
            trial = study.ask()
            study.tell(trial, score(trial.params))
        best = study.best()
        assert best.params["kind"] == "b" and best.values[0] > -1e-3
        assert study.report(study.ask(), 1, 0.5) is False
        study.tell(study.ask(), float("nan"))
        added = study.add({"x": 0.3, "kind": "b"})
        study.tell(added, 0.0)
        assert study.best().id == added.id


def test_the_same_study_asks_the_same():
    def asked():
        with Study(SPACE, algorithm="gp", seed=5) as study:
            trials = []
            for _ in range(15):
                trials.append(study.ask())
                study.tell(trials[-1], score(trials[-1].params))
            return trials

    assert asked() == asked()


def test_what_is_wrong_is_told_and_changes_nothing(tmp_path):
    with Study(SPACE) as study:
        with pytest.raises(Error, match="there is no trial 9: 0 have been asked for"):
            study.tell(9, 1.0)
        with pytest.raises(Error, match="5 is not from -1 to 1.*it has no value"):
            study.add({"x": 5})
        assert len(study.ask(3)) == 3
    with pytest.raises(Error, match="closed"):
        study.ask()
    with pytest.raises(Error, match='did you mean "float"'):
        Study({"x": {"type": "flot", "min": 0, "max": 1}})
    with pytest.raises(Error, match="space.toml"):
        Study(tmp_path / "space.toml")
    with Study({"x": {"type": "bool"}}) as study:
        assert len(study.ask(5)) == 2
        with pytest.raises(Error, match="have been tried"):
            study.ask()


def test_optuna_asks_us():
    def branin(trial):
        x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
        kind, steps = trial.suggest_categorical("kind", [None, True, 3]), trial.suggest_int("steps", 1, 64, log=True)
        if trial.number % 7 == 5:
            raise optuna.TrialPruned
        curve = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
        return curve + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 + (0 if kind is True else 3) + abs(steps - 7)

    def best(sampler):
        study = optuna.create_study(sampler=sampler)
        study.optimize(branin, n_trials=45)
        assert [trial.number for trial in study.trials if trial.state.name == "PRUNED"] == [5, 12, 19, 26, 33, 40]
        return study.best_value, study.best_params

    value, params = best(TrainyardSampler(seed=1))
    assert params["kind"] is True and params["steps"] == 7
    assert value < 1.0, "the least that there is is 0.398"
    assert best(TrainyardSampler(seed=1)) == (value, params)


def test_optuna_goes_on_where_a_finite_space_has_no_more():
    study = optuna.create_study(sampler=TrainyardSampler(seed=1))
    study.optimize(lambda trial: trial.suggest_int("a", 1, 3) + trial.suggest_categorical("b", [0, 10]), n_trials=15)
    assert len(study.trials) == 15 and study.best_value == 1
    assert len({(trial.params["a"], trial.params["b"]) for trial in study.trials[:8]}) == 6, "each once, before any twice"


def test_optuna_has_several_objectives_several_threads_and_a_history(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"

    def two(trial):
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return x, y - 0.1 * x

    def run(trials, sampler):
        study = optuna.create_study(study_name="two", storage=storage, directions=["minimize", "maximize"],
                                    load_if_exists=True, sampler=sampler)
        study.optimize(two, n_trials=trials, n_jobs=2)
        return study

    run(12, optuna.samplers.RandomSampler(seed=1))
    study = run(12, TrainyardSampler(seed=1))
    assert len(study.trials) == 24 and len(study.best_trials) >= 1
    ours = [trial.params for trial in study.trials[12:]]
    assert len({(params["x"], params["y"]) for params in ours}) == 12, "none twice"
