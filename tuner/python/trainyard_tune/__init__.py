"""Ask Trainyard what to try next, and tell it what came of it.

    from trainyard_tune import Study

    space = {"lr": {"type": "float", "min": 1e-5, "max": 1.0, "scale": "log"}, "depth": {"type": "int", "min": 1, "max": 8}}
    with Study(space, goal="maximize") as study:
        for _ in range(50):
            trial = study.ask()
            study.tell(trial, train(**trial.params))
        print(study.best())

The program `trainyard` has to be installed: it is found in PATH, or named by TRAINYARD_BIN. Nothing else is needed. The sampler for Optuna
is in `trainyard_tune.optuna`.
"""

from ._study import Error, Study, Trial

__all__ = ["Error", "Study", "Trial"]
