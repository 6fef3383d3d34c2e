"""The importance that trainyard, and Optuna's evaluators, give to the parameters of functions whose shares of variance are known:

    cargo run --release -p trainyard-benches --bin tuner_importance | PYTHON benches/importance.py

where PYTHON has optuna 5.0.0 and scikit-learn. The error is the mean over parameters of how far a share is from the known one, in
percent of the variance; Optuna's shares are brought to the sum of the known ones, as they come with the sum 1.
"""

import collections
import json
import sys
import time
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
EVALUATORS = {
    "optuna fANOVA": optuna.importance.FanovaImportanceEvaluator,
    "optuna PED-ANOVA": optuna.importance.PedAnovaImportanceEvaluator,
}


def error(found, known):
    return 100 * sum(abs(one - other) for one, other in zip(found, known)) / len(known)


rows = collections.defaultdict(list)
for line in sys.stdin:
    case = json.loads(line)
    names = [f"x{at}" for at in range(len(case["alone"]))]
    key = (case["function"], case["trials"])
    rows[*key, "trainyard"].append(
        (error(case["found_alone"], case["alone"]), error(case["found_total"], case["total"]), case["seconds"]))
    study = optuna.create_study()
    spread = optuna.distributions.FloatDistribution(0, 1)
    for point, loss in zip(case["points"], case["losses"]):
        study.add_trial(optuna.trial.create_trial(
            params=dict(zip(names, point)), distributions=dict.fromkeys(names, spread), value=loss))
    for name, evaluator in EVALUATORS.items():
        before = time.process_time()
        seeded = {"seed": case["seed"]} if "fANOVA" in name else {}
        found = optuna.importance.get_param_importances(study, evaluator=evaluator(**seeded))
        took = time.process_time() - before
        alone = [found[one] * sum(case["alone"]) for one in names]
        total = [found[one] * sum(case["total"]) for one in names]
        rows[*key, name].append((error(alone, case["alone"]), error(total, case["total"]), took))

print("| function | trials | by | error alone | error in all | ms |")
print("|---|---|---|---|---|---|")
for (function, trials, name), found in rows.items():
    alone, total, seconds = (sum(part) / len(found) for part in zip(*found))
    print(f"| {function} | {trials} | {name} | {alone:.1f} | {total:.1f} | {1000 * seconds:.0f} |")
