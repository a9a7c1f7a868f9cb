"""Training videos out of one store and test videos out of another, e.g. of views of another size."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from featcache.errors import ManifestError, RecipeMismatchError
from featcache.evaluation.data import ProbeData
from featcache.evaluation.pooling import pooled_width
from featcache.evaluation.reading import About, ProbeSource, Rows
from featcache.recipes import first_difference
from featcache.stages import OnStage, ignore


def check_alike(train: ProbeSource, test: ProbeSource) -> None:
    """Check that two stores hold the same feature: what may differ are the views and their size in pixels.

    Raises:
        RecipeMismatchError: It is another backbone, layer or output; names the first difference. Or the vectors that
            a probe reads have other widths.
    """
    ours, theirs = (source.store.features[source.features.name][0] for source in (train, test))
    alike = replace(theirs, input_size=ours.input_size, interpolation=ours.interpolation, enlarge=ours.enlarge)
    if difference := first_difference(ours, alike):
        raise RecipeMismatchError(
            f"feature {test.features.name!r} of {test.store.path} is another one than that of {train.store.path}: "
            f"{difference}; extract the same feature into both"
        )
    widths = [
        pooled_width(source.features.record, source.pool, feature=source.features.name, store=str(source.store.path))
        for source in (train, test)
    ]
    if widths[0] != widths[1]:
        shapes = (" x ".join(map(str, source.features.record.shape)) for source in (train, test))
        raise RecipeMismatchError(
            f"rows of feature {train.features.name!r} are {' and '.join(shapes)} in {train.store.path} and "
            f"{test.store.path}, which pool {train.pool!r} makes vectors of {widths[0]} and {widths[1]} channels of; "
            "extract maps of one size, or use pool=mean"
        )


def read_both(train: ProbeSource, test: ProbeSource, *, train_split: str, on_stage: OnStage = ignore) -> ProbeData:
    """The videos of the training split out of one store, those of all other splits out of the other.

    Args:
        train: Where the training videos are.
        test: Where the others are.
        train_split: Name of the training split.
        on_stage: As in :meth:`featcache.evaluation.reading.ProbeSource.read`.

    Raises:
        ManifestError: A video is trained on in one store and tested in the other.
    """
    ours = _only(train.rows(on_stage=on_stage), train_split, is_train=True)
    theirs = _only(test.rows(on_stage=on_stage), train_split, is_train=False)
    if both := sorted(set(ours.videos) & set(theirs.videos)):
        raise ManifestError(
            f"{len(both)} videos are in split {train_split!r} of {train.store.path} and in another split of "
            f"{test.store.path}, e.g. {both[0]!r}; give both stores the same splits"
        )
    return train.data_of(_joined(ours, theirs), store=f"{train.store.path} and {test.store.path}")


def _only(rows: Rows, train_split: str, *, is_train: bool) -> Rows:
    """The rows of videos that are in the training split, or of those that are not."""
    about = rows.about
    wanted = np.array([(split == train_split) == is_train for split in about.splits], dtype=np.bool_)
    kept = np.flatnonzero(wanted)
    is_kept = wanted[rows.row_video]

    return Rows(
        vectors=rows.vectors[is_kept],
        row_video=(np.cumsum(wanted) - 1)[rows.row_video[is_kept]],
        videos=[rows.videos[video] for video in kept.tolist()],
        about=About(
            labels=[about.labels[video] for video in kept.tolist()],
            splits=[about.splits[video] for video in kept.tolist()],
            groups=None if about.groups is None else [about.groups[video] for video in kept.tolist()],
            contents=[about.contents[video] for video in kept.tolist()],
            failed={split: num for split, num in about.failed.items() if (split == train_split) == is_train},
        ),
        positions=None if rows.positions is None else rows.positions[is_kept],
        is_random=rows.is_random[kept],
    )


def _joined(one: Rows, other: Rows) -> Rows:
    """The rows of one store followed by those of another."""
    first, second = one.about, other.about
    return Rows(
        vectors=np.concatenate([one.vectors, other.vectors]),
        row_video=np.concatenate([one.row_video, other.row_video + len(one.videos)]),
        videos=[*one.videos, *other.videos],
        about=About(
            labels=first.labels + second.labels,
            splits=first.splits + second.splits,
            groups=None if first.groups is None or second.groups is None else first.groups + second.groups,
            contents=first.contents + second.contents,
            failed=first.failed | second.failed,
        ),
        positions=_concatenated(one.positions, other.positions),
        is_random=np.concatenate([one.is_random, other.is_random]),
    )


def _concatenated(
    one: npt.NDArray[np.float32] | None, other: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    return None if one is None or other is None else np.concatenate([one, other])
