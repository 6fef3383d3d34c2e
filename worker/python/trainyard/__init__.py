"""What a training program can tell Trainyard, and ask of it. Nothing of it is needed, and all of it does nothing elsewhere.

    import trainyard

    for n, batch in enumerate(batches):
        loss = train_on(batch)
        trainyard.step(n, loss=loss)             # how far it is: shown, and a rank that stops is noticed within seconds

    with trainyard.checkpointing():              # a pause that is meant
        torch.save(...)

    trainyard.run(main)                          # after a failure elsewhere, `main` is called again in this process

This package has no dependencies, and is in every rank that `trainyard` starts. Python 3.8 or newer.
"""

from ._line import checkpointing, evaluating, step
from ._run import Interrupted, generation, run

__all__ = ["Interrupted", "checkpointing", "evaluating", "generation", "run", "step"]
