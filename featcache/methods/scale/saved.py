"""Set predictors that were trained before: out of a run's folder, as they were."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from featcache.errors import ConfigError
from featcache.loaders.settings import Coordinates
from featcache.networks.set_predictor import SetPredictor
from featcache.networks.settings import SetPredictorSettings
from featcache.training.checkpoint import taking_up
from featcache.training.identity import digest
from featcache.training.loop import trained_state
from featcache.training.runs import find_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPredictor:
    """A set predictor of ``featcache train scale``.

    Attributes:
        predictor: In evaluation mode.
        settings: Its shape.
        width_in: Channels of a clip.
        coordinates: What it learned from: ``true`` coordinates, ``shuffled`` or ``zero`` ones.
        identity: Changes whenever its weights could be others.
    """

    predictor: SetPredictor
    settings: SetPredictorSettings
    width_in: int
    coordinates: Coordinates
    identity: str


def load_predictor(folder: Path, *, seed: int | None = None, device: torch.device | str = "cpu") -> SavedPredictor:
    """The set predictor of one run, without its heads; the averaged one where the run kept an average.

    Args:
        folder: Of the run, or of one of its seeds.
        seed: Which seed; ``None``: the only one there is.
        device: Where to put it.

    Raises:
        ConfigError: No run of a set predictor there, or several seeds and none named.
    """
    found = find_seed(folder, seed if seed is not None else _only_seed(folder))
    checkpoint = trained_state(found)
    if checkpoint.facts.get("method") != "scale":
        raise ConfigError(f"{folder} is no run of a set predictor; give one of `featcache train scale`")
    with taking_up(found):
        settings = SetPredictorSettings(**checkpoint.facts["predictor"])
        width = int(checkpoint.facts["width_in"])
        with torch.device("meta"):
            predictor = SetPredictor(settings, width_in=width)
        module = checkpoint.part("ema.module") or checkpoint.part("module")
        prefix = "predictor."
        state = {name.removeprefix(prefix): value for name, value in module.items() if name.startswith(prefix)}
        predictor.load_state_dict(state, assign=True)
        return SavedPredictor(
            predictor=predictor.to(device).eval(),
            settings=settings,
            width_in=width,
            coordinates=checkpoint.facts["coordinates"],
            identity=f"{digest(checkpoint.identity)}-{checkpoint.step}",
        )


def _only_seed(folder: Path) -> int:
    """The seed of a run with one; any number where there is nothing to choose from.

    Raises:
        ConfigError: Several.
    """
    found = [re.fullmatch(r"seed-(\d{1,18})", path.parent.name, re.ASCII) for path in folder.glob("*/checkpoint.json")]
    seeds = sorted(int(match[1]) for match in found if match)
    if len(seeds) > 1:
        raise ConfigError(f"{folder} has runs of seeds {', '.join(map(str, seeds))}; name one of them")
    return seeds[0] if seeds else 0
