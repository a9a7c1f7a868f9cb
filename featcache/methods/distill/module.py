"""Several students as one module, which learn side by side."""

from collections.abc import Sequence

from torch import nn

from featcache.data.decoding.clips import CropSize
from featcache.methods.finetune.module import VideoClassifier


class Students(nn.Module):
    """Students that share batches, and nothing else.

    Attributes:
        each: The students, in the order of the settings.
    """

    def __init__(self, each: Sequence[VideoClassifier]) -> None:
        """Put them side by side."""
        super().__init__()
        self.each = nn.ModuleList(each)

    @property
    def independent(self) -> tuple[nn.Module, ...]:
        """Parts whose gradients are clipped apart; see :func:`featcache.training.gradients.clipped_together`."""
        return tuple(self.each)


def crop_of(student: VideoClassifier) -> CropSize:
    """The pixels that a student sees."""
    return CropSize(size=student.recipe.input_size, interpolation=student.recipe.interpolation)
