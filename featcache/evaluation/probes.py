"""Declarations of featcache's probes: the settings, the kind of prediction and the function of each. Without torch."""

from pathlib import Path

from featcache.evaluation.pooling import Pool
from featcache.evaluation.probe import ProbeEntry
from featcache.evaluation.settings import (
    KnnSettings,
    LinearSettings,
    MlpSettings,
    RetrievalSettings,
    RidgeSettings,
    ScaleFtSettings,
    ScaleLinearSettings,
    TransformerSettings,
)
from featcache.recipes import PositionForm


def _of_predictor(settings: TransformerSettings) -> PositionForm:
    return settings.predictor.position


def _pool(settings: RetrievalSettings) -> Pool:
    return settings.pool


def _model(settings: KnnSettings | ScaleLinearSettings | ScaleFtSettings) -> dict[str, str]:
    if settings.model is None:
        return {}
    from featcache.training.runs import run_content  # imports torch

    return {"model": run_content(Path(settings.model))}


KNN = ProbeEntry(
    probe="featcache.evaluation.knn:knn",
    settings=KnnSettings,
    takes_float16=True,
    leaves_one_out=True,
    positions="featcache.evaluation.knn:position_form",
    inputs=_model,
)
RETRIEVAL = ProbeEntry(
    probe="featcache.evaluation.retrieval:retrieval",
    settings=RetrievalSettings,
    takes_float16=True,
    leaves_one_out=True,
    leaves_groups_out=True,
    pool=_pool,
)
LINEAR = ProbeEntry(probe="featcache.evaluation.linear:linear", settings=LinearSettings, takes_float16=True)
RIDGE = ProbeEntry(
    probe="featcache.evaluation.ridge:ridge", settings=RidgeSettings, predicts="numbers", takes_float16=True
)
MLP = ProbeEntry(probe="featcache.evaluation.mlp:mlp", settings=MlpSettings, predicts="both", takes_float16=True)
TRANSFORMER = ProbeEntry(
    probe="featcache.evaluation.sets:transformer",
    settings=TransformerSettings,
    predicts="both",
    takes_float16=True,
    positions=_of_predictor,
)
SCALE_LINEAR = ProbeEntry(
    probe="featcache.evaluation.sets:scale_linear",
    settings=ScaleLinearSettings,
    predicts="both",
    takes_float16=True,
    positions="featcache.evaluation.sets:saved_form",
    inputs=_model,
)
SCALE_FT = ProbeEntry(
    probe="featcache.evaluation.sets:scale_ft",
    settings=ScaleFtSettings,
    predicts="both",
    takes_float16=True,
    positions="featcache.evaluation.sets:saved_form",
    inputs=_model,
)
