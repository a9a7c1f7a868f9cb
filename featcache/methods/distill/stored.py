"""Teachers that said what they know before: logits of videos in a store, or in an ``.npz`` file."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.data.decoding.clips import CropSize
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError
from featcache.files.sealed import sha256_bytes
from featcache.methods.distill.classes import columns_of
from featcache.seeding import rng_for
from featcache.store.reader import open_store


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Said:
    """Logits of the training videos.

    Attributes:
        name: The teacher.
        classes: Class names, in the order of the columns.
        logits: float32 [M, classes], one row per training video.
        content: Digest of them.
    """

    name: str
    classes: tuple[str, ...]
    logits: npt.NDArray[np.float32]
    content: str


class StoredTeacher:
    """See :class:`featcache.methods.distill.teachers.Teacher`; it runs no network.

    Attributes:
        name: How settings name it.
        content: Digest of what it says.
        crop: ``None``: it is shown nothing.
        macs: 0.
    """

    crop: CropSize | None = None
    macs: int = 0

    def __init__(self, said: Said, *, classes: Sequence[str], device: torch.device) -> None:
        """Put the logits on a device.

        Args:
            said: The logits.
            classes: Classes of the students, for the order of the columns.
            device: The device.

        Raises:
            ConfigError: The classes are others.
        """
        self.name, self.content = said.name, said.content
        self._said, self._classes, self._device = said, classes, device
        columns = columns_of(said.classes, classes, name=said.name)
        self._logits = torch.from_numpy(said.logits[:, columns]).to(device)

    def logits(self, videos: Sequence[int], clips: Mapping[CropSize, Tensor]) -> Tensor:
        """The rows of the videos."""
        return self._logits[torch.tensor(videos, device=self._device)]

    def permuted(self, seed: int) -> "StoredTeacher":
        """The rows in another order, the same for all teachers of a seed."""
        order = rng_for(seed, "teachers").permutation(len(self._said.logits))
        return StoredTeacher(
            replace(self._said, logits=self._said.logits[order]), classes=self._classes, device=self._device
        )


def read_store(path: Path, feature: str | None, *, videos: Sequence[VideoRecord], name: str) -> Said:
    """The logits of a store, averaged over the rows of each video.

    Args:
        path: The store.
        feature: Name of the array; ``None``: the only one with logits.
        videos: The training videos.
        name: The teacher, for messages.

    Raises:
        ConfigError: The array holds something else than logits of known classes, or lacks videos.
        CorruptStoreError: The store is damaged.
        StoreError: There is no store, or the feature is not complete.
        UnknownNameError: There is no such feature.
    """
    store = open_store(path)
    if feature is None:
        there = [each for each, (recipe, _) in store.features.items() if recipe.output == "logits"]
        if len(there) != 1:
            named = f"the logits {', '.join(there)}" if there else "no logits"
            raise ConfigError(f"teacher {name} is a store with {named}; name the feature, as {name}#FEATURE")
        feature = there[0]
    features = store.feature(feature)
    recipe = features.recipe
    if recipe.output != "logits":
        raise ConfigError(
            f"teacher {name} is the output {recipe.output!r} of {recipe.backbone}, and no logits; extract a fine-tuned "
            "run with --output logits"
        )
    if recipe.classes is None:
        raise ConfigError(
            f"teacher {name} was imported without the names of its classes; import it again with feature.classes"
        )
    place = {video: number for number, video in enumerate(features.video_ids)}
    _check_there([video.id for video in videos], place, name=name)
    for video in videos:
        theirs = store.videos[video.id].content_hash
        if theirs and video.content_hash and theirs != video.content_hash:
            raise ConfigError(
                f"teacher {name} has logits of another file than the {video.id!r} of this source; extract it from the "
                "same videos"
            )
    start = features.video_start
    spans = [np.arange(start[place[video.id]], start[place[video.id] + 1]) for video in videos]
    with features:
        logits = [_mean(features.gather(rows, dequantised=True), len(recipe.classes)) for rows in spans]
        content = features.digest(np.concatenate(spans))
    return Said(name=name, classes=recipe.classes, logits=np.stack(logits), content=content)


def read_npz(path: Path, *, videos: Sequence[VideoRecord]) -> Said:
    """The logits of a file with the arrays ``ids`` [N], ``logits`` [N, C] and ``classes`` [C].

    Args:
        path: The file.
        videos: The training videos.

    Raises:
        ConfigError: It is no such file, or lacks videos.
    """
    usage = "save ids [N], logits [N, C] and classes [C] with numpy.savez"
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            ids, logits, classes = (arrays[key] for key in ("ids", "logits", "classes"))
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(f"teacher {path} cannot be read ({why}); {usage}") from error
    named = (ids.ndim, classes.ndim) == (1, 1) and ids.dtype.kind == classes.dtype.kind == "U"
    if not named or logits.shape != (len(ids), len(classes)) or logits.dtype.kind not in "fiu":
        raise ConfigError(
            f"teacher {path} has ids {ids.dtype}{list(ids.shape)}, logits {logits.dtype}{list(logits.shape)} and "
            f"classes {classes.dtype}{list(classes.shape)}, which do not fit; {usage}"
        )
    place = {str(video): number for number, video in enumerate(ids.tolist())}
    if len(place) < len(ids):
        raise ConfigError(f"teacher {path} has several rows of one video; average them, one row per id")
    wanted = [video.id for video in videos]
    _check_there(wanted, place, name=str(path))
    rows = logits[[place[video] for video in wanted]].astype(np.float32)
    if not np.isfinite(rows).all():
        raise ConfigError(f"teacher {path} has logits that are not finite; leave out what is not known")
    names = tuple(str(label) for label in classes.tolist())
    return Said(
        name=str(path), classes=names, logits=rows, content=sha256_bytes(rows.tobytes() + "\0".join(names).encode())
    )


def _mean(rows: npt.NDArray[np.float32], num_classes: int) -> npt.NDArray[np.float32]:
    """The mean of rows [n, ..., C]."""
    mean: npt.NDArray[np.float32] = rows.reshape(-1, num_classes).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _check_there(wanted: Sequence[str], there: Mapping[str, int], *, name: str) -> None:
    """Check that a teacher has a row of every training video.

    Raises:
        ConfigError: It lacks some.
    """
    if lacking := [video for video in wanted if video not in there]:
        raise ConfigError(
            f"teacher {name} says nothing of {len(lacking)} of {len(wanted)} training videos, e.g. {lacking[0]!r}; "
            "extract its logits from all of them"
        )
