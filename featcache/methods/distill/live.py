"""Teachers that are shown the students' clips: fine-tuned runs, and backbones with a classifier of their own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from featcache.backbones.registry import check_name, classifier_of
from featcache.backbones.zero_shot import is_zero_shot
from featcache.data.decoding.clips import CropSize
from featcache.errors import UnknownNameError
from featcache.methods.distill.classes import columns_of
from featcache.methods.finetune.classifying import ReadyClassifier, fine_tuned, of_backbone, of_names
from featcache.networks.counting import counting_macs
from featcache.training.identity import digest


class LiveTeacher:
    """See :class:`featcache.methods.distill.teachers.Teacher`; a frozen network in evaluation mode.

    It sees the clips of the students, the same frames, boxes and colours, at its own size and normalisation.

    Attributes:
        name: How settings name it.
        content: Digest of its weights and pixels.
        crop: Size at which it is shown clips.
        macs: Multiply-accumulates per clip.
    """

    def __init__(
        self,
        ready: ReadyClassifier,
        *,
        name: str,
        classes: Sequence[str],
        num_frames: int,
        device: torch.device,
        is_permuted: bool = False,
    ) -> None:
        """Show the network one blank clip, to see that it can take such clips.

        Args:
            ready: The classifier.
            name: How settings name it.
            classes: Classes of the students, for the order of the columns.
            num_frames: Number of frames of a clip.
            device: Device of the clips.
            is_permuted: Say of each video what the network says of the one before it in the batch.

        Raises:
            ConfigError: The classes are others, or it cannot take such clips.
        """
        self.name = name
        self.crop: CropSize | None = ready.crop
        self.content = digest([ready.weights_hash, ready.crop.size, ready.crop.interpolation])
        self._ready, self._classes, self._num_frames, self._device = ready, tuple(classes), num_frames, device
        self._is_permuted = is_permuted
        self._columns = torch.tensor(columns_of(ready.classes, classes, name=name), device=device)
        size = ready.crop.size
        with torch.no_grad(), counting_macs() as counted:
            self._said(torch.zeros((1, num_frames, 3, size, size), dtype=torch.uint8, device=device))
        self.macs: int = counted.total

    def logits(self, videos: Sequence[int], clips: Mapping[CropSize, Tensor]) -> Tensor:
        """What the network says of the clips."""
        assert self.crop is not None, "it is shown clips"
        said = self._said(clips[self.crop])
        return said.roll(1, dims=0) if self._is_permuted else said

    def permuted(self, seed: int) -> "LiveTeacher":
        """A teacher that says of each video what this one says of the video before it in a batch."""
        return LiveTeacher(
            self._ready,
            name=self.name,
            classes=self._classes,
            num_frames=self._num_frames,
            device=self._device,
            is_permuted=True,
        )

    def _said(self, clips: Tensor) -> Tensor:
        is_low = self._ready.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_low):
            said: Tensor = self._ready.module(clips)
        return said.float().index_select(1, self._columns)


def read_live(name: str, *, classes: Sequence[str], prompt: str, device: torch.device) -> ReadyClassifier:
    """The classifier that a name of settings stands for.

    Args:
        name: The folder of a run, or ``BACKBONE`` or ``BACKBONE=WEIGHTS``.
        classes: Classes of the students, which a text tower reads.
        prompt: What it reads for a class.
        device: Device of the network.

    Raises:
        ConfigError: The backbone has no classifier, or a run has several seeds.
        UnknownNameError: There is no such run or backbone.
        WeightsError: Weights cannot be found or do not fit.
    """
    path = classifier_of(name)
    if path is not None:
        return fine_tuned(path, device=device)
    backbone, _, weights = name.partition("=")
    try:
        check_name(backbone)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"teacher {name!r} is no store, file or run, and no such backbone either: {error}"
        ) from error
    if is_zero_shot(backbone):
        return of_names(backbone, weights or "default", classes=classes, prompt=prompt, device=device)
    return of_backbone(backbone, weights or "default", device=device)
