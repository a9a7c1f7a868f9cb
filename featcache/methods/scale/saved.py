"""Loads trained set predictors from the folders of their runs."""

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
from featcache.training.runs import find_seed, only_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPredictor:
    """A set predictor of ``featcache train scale``.

    Attributes:
        predictor: The predictor, in evaluation mode.
        settings: Shape of the predictor.
        width_in: Number of channels of a clip.
        coordinates: Kind of coordinates in its training: ``true``, ``shuffled`` or ``zero``.
        identity: A value that changes whenever its weights could have changed.
    """

    predictor: SetPredictor
    settings: SetPredictorSettings
    width_in: int
    coordinates: Coordinates
    identity: str


def load_predictor(folder: Path, *, seed: int | None = None, device: torch.device | str = "cpu") -> SavedPredictor:
    """Load the set predictor of one run, without its heads; the averaged one if the run kept an average.

    Args:
        folder: Folder of the run, or of one of its seeds.
        seed: Seed of the run; ``None``: the only one.
        device: Device of the predictor.

    Raises:
        ConfigError: There is not a run of a set predictor, or there are several seeds and none is named.
    """
    found = find_seed(folder, seed if seed is not None else only_seed(folder))
    checkpoint = trained_state(found)
    if checkpoint.facts.get("method") != "scale":
        raise ConfigError(f"{folder} is not a run of a set predictor; give one of `featcache train scale`")
    with taking_up(found):
        settings = SetPredictorSettings(**checkpoint.facts["predictor"])
        width = int(checkpoint.facts["width_in"])
        with torch.device("meta"):
            predictor = SetPredictor(settings, width_in=width)
        predictor.load_state_dict(checkpoint.weights_of("predictor"), assign=True)
        return SavedPredictor(
            predictor=predictor.to(device).eval(),
            settings=settings,
            width_in=width,
            coordinates=checkpoint.facts["coordinates"],
            identity=f"{digest(checkpoint.identity)}-{checkpoint.step}",
        )
