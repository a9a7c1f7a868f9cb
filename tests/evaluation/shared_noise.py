"""An evaluation under noise that processes share, and what each of two processes does with it."""

from featcache.commands.noise import evaluate_noise
from featcache.evaluation.noise_settings import NoiseEvaluationSettings
from featcache.metrics.settings import IntervalSettings


def asked(*runs, **changes):
    """A quick evaluation."""
    given = {"workers": 0, "device": "cpu", "intervals": IntervalSettings(num_resamples=50), **changes}
    return NoiseEvaluationSettings(runs=tuple(str(run) for run in runs), **given)


def main(run, out):
    """The work of one of two processes."""
    evaluate_noise(asked(run, noise=("gaussian",), severity=(2,), out=str(out)))
