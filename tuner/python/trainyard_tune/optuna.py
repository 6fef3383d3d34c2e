"""Trainyard's samplers in Optuna.

    import optuna
    from trainyard_tune.optuna import TrainyardSampler

    study = optuna.create_study(sampler=TrainyardSampler(seed=7))
    study.optimize(objective, n_trials=100)

The parameters that all trials so far had in common are suggested together; others, and those of the first trial, are drawn at random, as
Optuna's own samplers do. Trials of other processes that share the study's storage are taken in, those that still run as well.
"""

import threading

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import TrialState

from ._study import Study

__all__ = ["TrainyardSampler"]


class TrainyardSampler(BaseSampler):
    """Asks `trainyard tune ask-tell` for each trial's parameters.

    `algorithm` is one of those that `trainyard tune` has; without it, its default. `program` names the program, if it is not in PATH.
    """

    def __init__(self, algorithm=None, *, seed=None, program=None):
        self._algorithm, self._seed, self._program = algorithm, seed, program
        self._random = RandomSampler(seed)
        self._spaces = {}
        self._search = None
        # Optuna's threads share a sampler, and each trial is told once.
        self._lock = threading.Lock()

    def __getstate__(self):
        # Another process begins a dialogue of its own, and tells it what the storage holds.
        kept = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**kept, "_search": None, "_spaces": {}}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def reseed_rng(self):
        self._random.reseed_rng()

    def infer_relative_search_space(self, study, trial):
        with self._lock:
            space = self._spaces.setdefault(study._study_id, IntersectionSearchSpace())
            return {name: kind for name, kind in space.calculate(study).items() if not kind.single()}

    def sample_relative(self, study, trial, search_space):
        if not search_space:
            return {}
        with self._lock:
            if self._search is None or not self._search.suits(study, search_space):
                if self._search is not None:
                    self._search.close()
                self._search = _Search(study, search_space, self._algorithm, self._seed, self._program)
            self._search.catch_up(study, trial.number)
            return self._search.ask(trial.number)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._random.sample_independent(study, trial, param_name, param_distribution)


class _Search:
    """A dialogue about one search space of one study."""

    def __init__(self, study, space, algorithm, seed, program):
        self._key = (study._study_id, tuple(sorted(space.items(), key=lambda item: item[0])))
        self._distributions = dict(space)
        goals = ["maximize" if way == StudyDirection.MAXIMIZE else "minimize" for way in study.directions]
        self._goals = len(goals)
        parameters = {name: _parameter(kind) for name, kind in space.items()}
        self._study = Study(parameters, goal=goals, algorithm=algorithm, seed=seed, program=program)
        self._ids, self._told = {}, set()

    def suits(self, study, space):
        return self._key == (study._study_id, tuple(sorted(space.items(), key=lambda item: item[0])))

    def close(self):
        self._study.close()

    def ask(self, number):
        trials = self._study.ask(1)
        # All configurations of a finite space have been tried: Optuna goes on with ones that it draws.
        if not trials:
            return {}
        trial = trials[0]
        self._ids[number] = trial.id
        return {name: _from_ours(self._distributions[name], value) for name, value in trial.params.items()}

    def catch_up(self, study, present):
        """Tells what has happened since: in the order of the trials' numbers, so that the same study is told the same."""
        for trial in study._storage.get_all_trials(study._study_id, deepcopy=False):
            if trial.number in self._told or trial.number == present:
                continue
            has_all = all(trial.distributions.get(name) == kind for name, kind in self._distributions.items())
            if trial.number not in self._ids:
                if not has_all:
                    continue
                params = {name: _to_ours(kind, trial.params[name]) for name, kind in self._distributions.items()}
                self._ids[trial.number] = self._study.add(params).id
            if trial.state.is_finished():
                self._study.tell(self._ids[trial.number], self._values(trial))
                self._told.add(trial.number)

    def _values(self, trial):
        if trial.state == TrialState.COMPLETE:
            return list(trial.values)
        # What a pruned trial had reached is what is known of it.
        if trial.state == TrialState.PRUNED and trial.intermediate_values and self._goals == 1:
            return trial.intermediate_values[max(trial.intermediate_values)]
        return None


def _parameter(kind):
    if isinstance(kind, FloatDistribution):
        parameter = {"type": "float", "min": kind.low, "max": kind.high, "step": kind.step}
    elif isinstance(kind, IntDistribution):
        parameter = {"type": "int", "min": kind.low, "max": kind.high, "step": kind.step}
    else:
        # Choices may be anything there: their positions stand for them.
        return {"type": "categorical", "choices": list(range(len(kind.choices)))}
    if kind.log:
        parameter["scale"] = "log"
    return parameter


def _from_ours(kind, value):
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[value]
    return int(value) if isinstance(kind, IntDistribution) else float(value)


def _to_ours(kind, value):
    return kind.to_internal_repr(value).__int__() if isinstance(kind, CategoricalDistribution) else value
