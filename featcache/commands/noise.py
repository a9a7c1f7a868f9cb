"""``evaluate noise``: fine-tuned models on noisy test videos, with a plot."""

from pathlib import Path

from featcache.evaluation.noise_result import NoiseResult
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.stages import OnStage, ignore
from featcache.training.world import find_world


def evaluate_noise(settings: NoiseEvaluationSettings, *, on_stage: OnStage = ignore) -> NoiseResult:
    """Score runs under noise, and plot accuracy against severity; see :func:`score_under_noise`, also for the errors.

    Args:
        settings: Runs and noise.
        on_stage: Called with the stages ``scan`` and ``noise``, videos done and in total.
    """
    from featcache.evaluation.noise import score_under_noise
    from featcache.files.publish import put_replace
    from featcache.report.noise_plot import plot_noise

    result = score_under_noise(settings, on_stage=on_stage)
    if find_world().is_first:
        put_replace(Path(result.picture), plot_noise(result))
    return result
