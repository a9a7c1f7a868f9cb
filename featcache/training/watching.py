"""What is said while a run goes on: signs of collapse when an epoch ends."""

import logging

from featcache.training.collapse import collapse_sign
from featcache.training.logs import read_log
from featcache.training.loop import OnStep, StepReport
from featcache.training.runs import seed_folder
from featcache.training.seeds import SeedRuns

log = logging.getLogger(__name__)


def watch_collapse(runs: SeedRuns, seed: int, *, num_prototypes: int, remedy: str) -> OnStep:
    """Warn once of collapse when an epoch after the warm-up ends.

    Args:
        runs: The run.
        seed: Which of its seeds.
        num_prototypes: Number of prototypes of the assignments.
        remedy: What helps, the end of the warning.
    """
    schedule = runs.training.schedule
    warned: list[str] = []

    def watch(step: StepReport) -> None:
        if warned or not step.epoch.is_integer() or step.epoch <= schedule.warmup_fraction * step.epochs:
            return
        if sign := collapse_sign(read_log(seed_folder(runs.folder, seed))[-1], num_prototypes=num_prototypes):
            warned.append(sign)
            log.warning("epoch %d of seed %d looks collapsed: %s; %s", step.epoch, seed, sign, remedy)

    return watch
