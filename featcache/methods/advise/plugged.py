"""Evaluates a trained temporal module on the maps of another image model, without training it again.

Source: AdViSe, on the choice of the image model. Module and head, including BatchNorm statistics, do not change; only
the store does. The channels of two image models need not mean the same; the score shows whether they do.
"""

import itertools
import json
import time
from functools import partial
from pathlib import Path

import numpy as np

from featcache.config import parse, read_json, read_mapping, to_yaml
from featcache.errors import ConfigError, ManifestError
from featcache.files.publish import put_replace
from featcache.loaders.assignments import scored_videos, split_coverage
from featcache.loaders.bank import open_bank
from featcache.loaders.choice import groups_of, video_splits
from featcache.machine import resolve_device
from featcache.methods.advise.saved import arms_of, load_module, module_settings
from featcache.methods.advise.settings import TmmEvaluationSettings, TmmFineTuneSettings
from featcache.methods.advise.tmm import TemporalResult, measured, most_crops
from featcache.methods.advise.tuning import ORDERS, video_logits
from featcache.metrics.intervals import rank_of_truth
from featcache.metrics.settings import IntervalSettings
from featcache.networks.tmm_cost import counted_cost
from featcache.stages import OnStage, ignore
from featcache.store.reader import open_store
from featcache.training.runs import run_folder


def evaluate_plugged(
    settings: TmmEvaluationSettings, *, intervals: IntervalSettings | None = None, on_stage: OnStage = ignore
) -> TemporalResult:
    """Score the test views of a store with the unchanged modules of a run, one per seed and arm.

    Args:
        settings: Settings of the evaluation.
        intervals: Settings of the intervals.
        on_stage: Called with the stage ``test SPLIT``, videos scored and videos in all.

    Raises:
        ConfigError: The folder is not a run of ``train tmm``, or the run was trained on folds or on another width.
        ManifestError: There are no labelled test videos, or they have classes that the run does not know.
        UnknownNameError: There is no such split or label column.
    """
    started = time.monotonic()
    run = Path(settings.run)
    trained, classes = read_run(run)
    store = open_store(Path(settings.bank.store))
    bank = open_bank(settings.bank, store=store)
    label = settings.label or trained.label
    named = store.labels(label)
    if strangers := sorted(set(named.values()) - set(classes)):
        raise ManifestError(
            f"{store.path} has the class {strangers[0]!r} in column {label!r}, which {run} was not trained on; choose "
            "the label column that it was trained on"
        )
    labels = np.array([classes.index(named[name]) if name in named else -1 for name in bank.video_ids], np.int64)
    splits = video_splits(store, settings.bank.split_column)
    videos = scored_videos(store, bank, labels, settings.bank, test_splits=settings.test_splits)
    if not videos:
        raise ManifestError(
            f"{store.path} has no labelled test videos outside of split {settings.bank.train_split!r}; a module can "
            "only be scored on videos that it was not trained on"
        )
    device = resolve_device(settings.device)
    arms = dict(arms_of(run))
    orders = ORDERS if settings.order_test else ORDERS[:1]
    seeds = trained.training.seeds
    modules = {
        (arm, seed): load_module(folder, seed=seed, shape=bank.shape).to(device)
        for arm, folder in arms.items()
        for seed in seeds
    }
    ranks = {}
    for split, numbers in videos.items():
        scores = video_logits(
            list(modules.values()),
            bank,
            numbers,
            trained,
            orders=orders,
            seeds=[seed for _, seed in modules],
            on_videos=partial(on_stage, f"test {split}"),
        )
        for order, (place, arm) in itertools.product(orders, enumerate(arms)):
            mine = scores[order][place * len(seeds) : (place + 1) * len(seeds)]
            ranks[arm, split, order] = rank_of_truth(mine, labels[numbers])
    out = run_folder(settings, out=settings.out, store=settings.bank.store, name="plugged")
    put_replace(out / "config.yaml", to_yaml(settings).encode())
    result = TemporalResult(
        folder=str(out),
        store=str(store.path),
        label=label,
        protocol=f"trained on {trained.bank.store}, not on this store",
        num_classes=len(classes),
        classes=classes,
        num_train=0,
        num_views=trained.test_clips * most_crops(bank, videos),
        seeds=seeds,
        coverage={split: split_coverage(store, bank, splits, split, labels) for split in videos},
        cost=counted_cost(
            module_settings(next(iter(arms.values())), seed=seeds[0]),
            shape=bank.shape,
            num_frames=trained.num_frames,
            num_classes=len(classes),
        ),
        seconds=time.monotonic() - started,
        **measured(
            ranks,
            labels,
            videos,
            num_classes=len(classes),
            intervals=intervals,
            groups=groups_of(store, bank.video_ids),
        ),
    )
    put_replace(out / "result.json", json.dumps(result.to_dict(), indent=2).encode())
    return result


def read_run(run: Path) -> tuple[TmmFineTuneSettings, tuple[str, ...]]:
    """Read the settings and class names of a finished run of ``train tmm``.

    Raises:
        ConfigError: It is not such a run, or is not finished.
    """
    if not (run / "config.yaml").exists() or read_mapping(run / "config.yaml").get("command") != "train-tmm":
        raise ConfigError(f"{run} is not a run of `featcache train tmm`; give the folder that it wrote to")
    if not (run / "result.json").exists():
        raise ConfigError(f"{run} is not finished; run `featcache run {run / 'config.yaml'}` to the end first")
    result = read_json(run / "result.json", what="result of `featcache train tmm`")
    classes = result.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{run} does not name its classes; run `featcache run {run / 'config.yaml'}` once more")
    return parse(TmmFineTuneSettings, read_mapping(run / "config.yaml")), tuple(classes)
