"""Teachers of distillation: what each says of training videos, from a table of logits or from a network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from featcache.data.decoding.clips import CropSize
from featcache.data.types import VideoRecord
from featcache.errors import ConfigError
from featcache.methods.distill.live import LiveTeacher, read_live
from featcache.methods.distill.stored import StoredTeacher, read_npz, read_store
from featcache.store.documents import is_store
from featcache.training.identity import digest

_STORED = re.compile(r"(?P<store>.+?)#(?P<feature>[^#]*)")


class Teacher(Protocol):
    """What a teacher says of clips.

    Attributes:
        name: How settings name it.
        content: Digest of what it says, or of its weights.
        crop: The pixels that it is shown; ``None``: none.
        macs: Multiply-accumulates per clip.
    """

    name: str
    content: str
    crop: CropSize | None
    macs: int

    def logits(self, videos: Sequence[int], clips: Mapping[CropSize, Tensor]) -> Tensor:
        """Logits float32 [B, classes of the students], without a gradient.

        Args:
            videos: Numbers of the training videos.
            clips: Of each size, uint8 [B, T, 3, S, S], one clip of each video, on the device.
        """

    def permuted(self, seed: int) -> Self:
        """A teacher that says of each video what this one says of another."""


class Teachers:
    """All teachers of a run.

    Attributes:
        each: The teachers.
        sizes: Pixels that are needed for them.
    """

    def __init__(self, each: Sequence[Teacher]) -> None:
        self.each = tuple(each)
        self.sizes = tuple(dict.fromkeys(teacher.crop for teacher in self.each if teacher.crop is not None))

    @property
    def content(self) -> str:
        """Digest of what they say, or of their weights, in order."""
        return digest([teacher.content for teacher in self.each])

    def permuted(self, seed: int) -> "Teachers":
        """Teachers that say of each video what these say of another."""
        return Teachers([teacher.permuted(seed) for teacher in self.each])

    @torch.no_grad()
    def logits(self, videos: Sequence[int], clips: Mapping[CropSize, Tensor]) -> Tensor:
        """Logits float32 [teachers, B, classes]; see :meth:`Teacher.logits`."""
        return torch.stack([teacher.logits(videos, clips) for teacher in self.each])


def read_teachers(
    names: Sequence[str],
    *,
    classes: Sequence[str],
    videos: Sequence[VideoRecord],
    num_frames: int,
    prompt: str,
    device: torch.device,
) -> Teachers:
    """Find teachers by their names in settings.

    Args:
        names: The names; see :class:`featcache.methods.distill.settings.DistillSettings`.
        classes: Classes of the students.
        videos: The training videos.
        num_frames: Number of frames of their clips.
        prompt: What a text tower reads for a class.
        device: Device of the logits.

    Raises:
        ConfigError: A teacher has other classes than the students, lacks videos, or cannot take such clips.
        FeatcacheError: A store, file or network cannot be read.
        UnknownNameError: There is no such feature or backbone.
    """
    found: list[Teacher] = []
    for name in names:
        stored = _STORED.fullmatch(name)
        if stored is not None or is_store(Path(name).expanduser()):
            path, feature = (stored["store"], stored["feature"]) if stored is not None else (name, "")
            said = read_store(Path(path).expanduser(), feature or None, videos=videos, name=name)
            found.append(StoredTeacher(said, classes=classes, device=device))
        elif name.endswith(".npz"):
            found.append(
                StoredTeacher(read_npz(Path(name).expanduser(), videos=videos), classes=classes, device=device)
            )
        else:
            shown = read_live(name, classes=classes, prompt=prompt, device=device)
            found.append(LiveTeacher(shown, name=name, classes=classes, num_frames=num_frames, device=device))
    return Teachers(found)


def live_names(names: Sequence[str]) -> list[str]:
    """The teachers that are shown clips, of those that settings name."""
    return [
        name
        for name in names
        if not (_STORED.fullmatch(name) or name.endswith(".npz") or is_store(Path(name).expanduser()))
    ]


def check_permuted(names: Sequence[str], *, clips_at_once: int) -> None:
    """Check that live teachers can be permuted within a batch.

    Raises:
        ConfigError: A batch of a process has a single video.
    """
    if clips_at_once < 2 and (live := live_names(names)):
        raise ConfigError(
            f"permute_teachers gives each video what {live[0]} says of another one of its batch, which has no other; "
            "set a larger training.batch_size"
        )
