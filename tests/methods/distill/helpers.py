"""Quick settings of distillation on the videos of fine-tuning's tests."""

from featcache.methods.distill.settings import DistillSettings, StudentSettings
from featcache.methods.finetune.settings import FinetuneClipSettings, FinetuneTestSettings
from tests.methods.finetune.helpers import training

SVT = StudentSettings(backbone="svt-tiny", input_size=32)
VIT = StudentSettings(backbone="timm/test_vit", input_size=160)
WHOLE = FinetuneClipSettings(
    num_frames=2, frame_stride=20, short_videos="clamp", crop="centre", side_range=(1.0, 1.0), flip_probability=0.0
)
"""Clips of the first and the last frame, the same in every epoch."""


def settings(source, out, **changes):
    """Settings of a run of one student, whose clips are the same in every epoch."""
    given = {
        "source": str(source),
        "students": (SVT,),
        "workers": 0,
        "clips": WHOLE,
        "test": FinetuneTestSettings(num_crops=1),
        "training": training(),
        "out": str(out),
    }
    return DistillSettings(**{**given, **changes})
