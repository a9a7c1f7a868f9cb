"""The shipped files of AdViSe, and the settings of their steps."""

from pathlib import Path

from featcache.commands.registry import load
from featcache.commands.steps import PipelineSettings, parse_steps, pipeline_steps
from featcache.commands.sweeps import SweepSettings, row_steps
from featcache.config import read_mapping

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "advise").glob("*.yaml"))
SWEEPS = [path for path in CONFIGS if read_mapping(path)["command"] == "sweep"]
PIPELINES = [path for path in CONFIGS if read_mapping(path)["command"] == "pipeline"]
EXTRACTIONS = [path for path in CONFIGS if read_mapping(path)["command"] == "extract"]


def named(stem):
    return next(path for path in CONFIGS if path.stem == stem)


def rows_of(path):
    """Each row of a sweep with the settings of its steps."""
    settings = load(path)
    return [
        (row, parse_steps(row_steps(settings, row, folder=f"runs/{path.stem}/{row.name}"))) for row in settings.rows
    ]


def every_step(path):
    """Settings of all steps of all rows."""
    settings = load(path)
    if isinstance(settings, PipelineSettings):
        return parse_steps(pipeline_steps(settings))
    assert isinstance(settings, SweepSettings)
    return [step for _, steps in rows_of(path) for step in steps]
