"""Do coordinates matter? MCM with true, shuffled and zero coordinates, on real clip vectors and on a positive control.

`motion` extracts the motion set's clips (EfficientNet-Lite0, random crops at random times; or takes `--store`), deletes
the videos, pre-trains with MCM alone and looks for the masked clips of unseen videos; then a linear probe on [x; CLS]
is trained on clips with the same kind of coordinates. `control` is synthetic: a clip's vector is a function of what its
video shows and of the clip's position, so a masked clip differs from its neighbours only by its position, and shuffling
must hurt.

    uv run python benchmarks/scale_positions.py control
    uv run python benchmarks/scale_positions.py motion
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import scipy.stats
import torch
from common import parser, report

from featcache.data.motion import make_motion_set, remove_motion_set
from featcache.evaluation.data import ProbeData
from featcache.evaluation.reading import read_data
from featcache.evaluation.run import run_probe
from featcache.evaluation.settings import ClipTraining, ScaleLinearSettings
from featcache.extract.run import extract
from featcache.extract.settings import ExtractSettings
from featcache.loaders.clip_sets import ClipSets, open_clip_sets, with_coordinates
from featcache.loaders.settings import ClipSetSettings, Coordinates
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.run import build_module, pretrain_scale
from featcache.methods.scale.settings import ScaleHeadSettings, ScaleLossSettings, ScaleSettings
from featcache.networks.settings import SetPredictorSettings
from featcache.shipped import load_pipeline
from featcache.store.reader import open_store
from featcache.training.loop import trained_state
from featcache.training.runs import seed_folder
from featcache.training.settings import OptimiserSettings, ScheduleSettings, TrainingSettings

ARMS: tuple[Coordinates, ...] = get_args(Coordinates)
TRUE, SHUFFLED, ZERO = ARMS
CONTENT, PLACE, NOISE = 32, 32, 0.1
"""Of the control: numbers of channels for a video's content and for a clip's position, and the noise's deviation."""


def main() -> None:
    """Train every arm with every seed and print the table."""
    options = parser(__doc__)
    options.add_argument("what", choices=("control", "motion"))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--videos", type=int, default=256, help="training videos of the control")
    options.add_argument("--width", type=int, default=128, help="of the predictor")
    options.add_argument("--store", type=Path, help="clips of a motion set that was extracted before")
    options.add_argument("--folder", type=Path, help="keep the store and the runs here")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=0)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if args.what == "control":
            train = control_sets(args.videos, seed=0)
            test = control_sets(args.videos, seed=1)
            runs = {arm: found_masked_clips(settings_of(arm, args, folder=folder), train, test) for arm in ARMS}
            probes: dict[str, dict[str, str]] = {arm: {} for arm in ARMS}
        else:
            store = args.store or motion_store(folder)
            settings = {arm: settings_of(arm, args, folder=folder, store=store) for arm in ARMS}
            train = open_clip_sets(settings[TRUE].sets, only_training=True)
            test = unseen_sets(store)
            runs = {arm: found_masked_clips(settings[arm], train, test) for arm in ARMS}
            probes = {arm: probe_texts(store, settings[arm]) for arm in ARMS}
    rows: list[dict[str, Any]] = [
        {
            "coordinates": arm,
            **{title: interval_text([run[key] for run in runs[arm]], scale) for key, title, scale in COLUMNS},
            **probes[arm],
        }
        for arm in ARMS
    ]
    rows += [
        {
            "coordinates": f"true - {other}",
            **{
                title: interval_text([a[key] - b[key] for a, b in zip(runs[TRUE], runs[other], strict=True)], scale)
                for key, title, scale in COLUMNS
            },
        }
        for other in (SHUFFLED, ZERO)
    ]
    notes = [
        f"{args.seeds} seeds, 95 % t-intervals over them (differences in pairs; the probe's are bootstrapped over "
        f"videos and seeds); {len(train.video_ids)} training and {len(test.video_ids)} test videos, {args.epochs} "
        f"epochs, batch {args.batch}; a masked clip is looked for among {16 * min(args.batch, len(test.video_ids))} "
        "clips at most"
    ]
    report(f"do coordinates matter: {args.what}", rows, as_json=args.json, notes=notes)


COLUMNS = (("mcm_accuracy", "masked clips found, %", 100.0), ("mcm", "MCM loss, nats", 1.0))


def control_sets(num_videos: int, *, seed: int, num_clips: int = 16) -> ClipSets:
    """Clips whose vectors are, up to noise, a rotation of [content of the video; waves of the clip's position].

    The waves and the rotation are the same for all seeds; the videos and the positions are not.
    """
    world, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
    frequencies = world.normal(0.0, 4.0, (6, PLACE // 2))
    rotation = np.linalg.qr(world.normal(size=(CONTENT + PLACE, CONTENT + PLACE)))[0]
    corner, side = rng.random((num_videos * num_clips, 3)) * 0.6, 0.2 + 0.2 * rng.random((num_videos * num_clips, 3))
    y0, x0, t0 = corner.T
    y1, x1, t1 = (corner + side).T
    positions = np.stack([y0, x0, y1, x1, t0, t1], axis=1)
    waves = positions @ frequencies
    shown = np.repeat(rng.normal(size=(num_videos, CONTENT)), num_clips, axis=0)
    parts = np.concatenate([shown, np.sqrt(2) * np.sin(waves), np.sqrt(2) * np.cos(waves)], axis=1)
    vectors = parts @ rotation + NOISE * rng.normal(size=parts.shape)
    return ClipSets(
        features=torch.from_numpy(vectors.astype(np.float32)),
        positions=torch.from_numpy(positions.astype(np.float32)),
        video_start=np.arange(0, num_videos * num_clips + 1, num_clips, dtype=np.int64),
        video_ids=tuple(f"v{number}" for number in range(num_videos)),
        identity=f"control {num_videos} {num_clips} {seed}",
    )


def settings_of(
    arm: Coordinates, args: argparse.Namespace, *, folder: Path, store: Path | None = None
) -> ScaleSettings:
    """Settings with MCM alone and a small predictor."""
    return ScaleSettings(
        sets=ClipSetSettings(store=str(store or "memory")),
        coordinates=arm,
        predictor=SetPredictorSettings(width=args.width),
        heads=ScaleHeadSettings(target_hidden=512, hidden=1024),
        loss=ScaleLossSettings(set_weight=0.0),
        training=TrainingSettings(
            epochs=args.epochs,
            batch_size=args.batch,
            optimiser=OptimiserSettings(lr=1e-3, weight_decay=1e-4),
            schedule=ScheduleSettings(warmup_fraction=0.05),
            seeds=tuple(range(args.seeds)),
            device=args.device,
            threads=args.threads,
            tensorboard=False,
        ),
        out=str(folder / f"{args.what}-{arm}"),
    )


def found_masked_clips(
    settings: ScaleSettings, train: ClipSets, test: ClipSets, *, epochs: int = 4
) -> list[dict[str, float]]:
    """Pre-train with every seed and return MCM's loss and accuracy on test videos with the same kind of coordinates."""
    run = pretrain_scale(settings, sets=train)
    seen = with_coordinates(test, settings.coordinates).to(settings.training.device)
    results = []
    for seed in settings.training.seeds:
        module = build_module(settings, width_in=train.features.shape[1], seed=seed)
        module.load_state_dict(trained_state(seed_folder(Path(run.folder), seed)).part("module"))
        objective = ScaleObjective(
            seen,
            settings.loss,
            module=module.to(settings.training.device).eval(),
            clips_per_set=settings.clips_per_set,
            batch_size=settings.training.batch_size,
            seed=0,
        )
        with torch.no_grad():
            losses = [
                objective.loss(part)
                for epoch in range(epochs)
                for batch in range(objective.num_batches)
                for part in objective.parts(epoch, batch)
            ]
        names = ("mcm", "mcm_accuracy")
        results.append({name: statistics.fmean(float(loss.metrics[name]) for loss in losses) for name in names})
    return results


def motion_store(folder: Path) -> Path:
    """A store of clips of the motion set, as in ``pipelines/scale.py`` but all random; the videos are deleted."""
    settings = load_pipeline("scale").ScalePipelineSettings()
    listing = make_motion_set(folder / "videos", settings.motion)
    extract(
        ExtractSettings(
            source=str(listing),
            out=str(folder / "store"),
            features=(settings.feature,),
            sampling=settings.extraction.sampling.model_copy(update={"test": None}),
        )
    )
    remove_motion_set(folder / "videos", settings.motion)
    return folder / "store"


def unseen_sets(path: Path) -> ClipSets:
    """Clips of the videos outside of the training split."""
    store = open_store(path)
    sets = open_clip_sets(ClipSetSettings(store=str(path)), store=store)
    chosen = np.flatnonzero([store.videos[video_id].split != "train" for video_id in sets.video_ids])
    rows = np.concatenate([np.arange(*sets.video_start[[video, video + 1]]) for video in chosen])
    return ClipSets(
        features=sets.features[rows],
        positions=sets.positions[rows],
        video_start=np.concatenate([[0], np.cumsum(sets.num_clips[chosen])]).astype(np.int64),
        video_ids=tuple(sets.video_ids[video] for video in chosen),
        identity=f"{sets.identity}, not trained on",
    )


def probe_texts(store: Path, settings: ScaleSettings) -> dict[str, str]:
    """Top-1 of SCALE_linear on new clips of seen photographs, by label."""
    training = ClipTraining(lrs=(1e-3, 3e-3), batch_sizes=(64,), seeds=settings.training.seeds, epochs=20)
    own = ScaleLinearSettings(model=settings.out, training=training)
    texts = {}
    for label in ("picture", "motion"):
        data = with_probe_coordinates(read_data(store, label=label, positions="box6"), settings.coordinates)
        result = run_probe("scale-linear", data, own, test_splits=("test_seen",), device=settings.training.device)
        top1 = result.splits["test_seen"].metrics["top1"]
        texts[f"SCALE_linear, {label}, %"] = f"{100 * top1.value:.1f} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]"
    return texts


def with_probe_coordinates(data: ProbeData, arm: Coordinates) -> ProbeData:
    """The same data with the kind of coordinates of pre-training."""
    start = np.searchsorted(data.row_video, np.arange(len(data.videos) + 1)).astype(np.int64)
    sets = ClipSets(
        features=torch.from_numpy(data.features),
        positions=torch.from_numpy(data.positions["box6"]),
        video_start=start,
        video_ids=data.videos,
        identity="probe",
    )
    return dataclasses.replace(data, positions={"box6": with_coordinates(sets, arm).positions.numpy()})


def interval_text(values: Sequence[float], scale: float) -> str:
    """``mean [low, high]`` with a 95 % t-interval over seeds."""
    mean, low, high = t_interval([scale * value for value in values])
    digits = 1 if scale > 1 else 3
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if len(values) > 1 else "")


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean, lower and upper end of Student's interval; all three are equal for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    error = statistics.stdev(values) / len(values) ** 0.5
    reach = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


if __name__ == "__main__":
    main()
