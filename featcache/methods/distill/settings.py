"""Settings of distillation, without torch."""

from typing import Literal

from pydantic import Field

from featcache.config import Aside, Settings
from featcache.errors import ConfigError
from featcache.loaders.settings import LabelledSettings
from featcache.methods.finetune.settings import FULL, FinetuneClipSettings, FinetuneSettings, FinetuneTestSettings
from featcache.training.settings import TrainingSettings

Mode = Literal["sum", "mean", "aekd"]


class StudentSettings(Settings):
    """A network that learns."""

    backbone: str
    """Registry name of the network, e.g. ``shufflenet3d``."""
    weights: str = "random"
    """Weights to begin with: ``random`` (the same for every seed), ``default`` or the path of a file."""
    name: str | None = None
    """Name of its folder in the run; null: that of the backbone."""
    input_size: int | None = Field(default=None, ge=1)
    """Input side in pixels; null: the backbone's."""

    @property
    def folder(self) -> str:
        """Name of its folder in the run."""
        return (self.name or self.backbone).replace("/", "-").replace(":", "-")


class DistillSettings(LabelledSettings):
    """Settings of ``featcache train distill``: students that learn from labels and from teachers, then are tested."""

    command: Literal["train-distill"] = "train-distill"
    """The command this file repeats."""
    workers: Aside[int | None] = Field(default=None, ge=0)
    """Number of decoding processes; 0: a thread of the training process; null: one per core. The pixels are the
    same."""
    students: Aside[tuple[StudentSettings, ...]] = Field(min_length=1)
    """Networks that learn side by side from the same clips, each as it would alone; they count by their weights."""
    teachers: Aside[tuple[str, ...]] = ()
    """Teachers: ``STORE#FEATURE`` with logits of the training videos, an ``.npz`` of such logits, the folder of a
    ``train finetune`` run, or ``BACKBONE`` or ``BACKBONE=WEIGHTS`` with a classifier of its own or a text tower. The
    first two cost no forward pass; the others see the students' clips. They count by what they say, or by their
    weights."""
    mode: Mode = "sum"
    """How the teachers' divergences are added: ``sum``, ``mean``, or ``aekd``, which weighs them in each batch so that
    their joint gradient is shortest."""
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """What logits are divided by before the softmax; divergences are multiplied by its square."""
    kd_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the teachers' part beside the cross-entropy; 0: no teacher is read, the first control arm."""
    largest_weight: float = Field(default=0.6, gt=0, le=1)
    """Largest weight of a teacher with ``aekd``, its C."""
    permute_teachers: bool = False
    """Give each video what teachers say of another one, the second control arm: stored logits are permuted among all
    training videos, those of live teachers within each batch."""
    prompt: str = "{}"
    """What a text tower reads for a class, whose name with spaces between its words takes the place of ``{}``."""
    head_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout rate before the heads."""
    clips: FinetuneClipSettings = FinetuneClipSettings()
    """Training clips."""
    test: Aside[FinetuneTestSettings] = FinetuneTestSettings()
    """Test views."""
    training: TrainingSettings = FULL
    """Training settings of every student; the defaults are those of fine-tuning."""
    out: Aside[str | None] = None
    """Folder of the run, in which every student has one; null: ``runs/<source>/distill-<hash>``."""

    def model_post_init(self, context: object) -> None:
        """Check what no single field can."""
        super().model_post_init(context)
        if not self.teachers and self.kd_weight:
            raise ConfigError(
                "no teacher is given; name one with --teacher, or set kd_weight=0 for students that learn from labels "
                "alone"
            )
        if "{}" not in self.prompt:
            raise ConfigError(f"prompt is {self.prompt!r} and has no {{}} for a class's name; e.g. 'a video of {{}}'")
        names = [student.folder for student in self.students]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two students are named {twice!r}; give one of them a name of its own")
        self.as_finetuning(self.students[0])  # checks what students share with fine-tuning

    def as_finetuning(self, student: StudentSettings, *, out: str | None = None) -> FinetuneSettings:
        """The settings of a student as those of a fine-tuning, which it would be without teachers.

        Args:
            student: One of the students.
            out: Folder of the student.
        """
        shared = {
            name: getattr(self, name) for name in FinetuneSettings.model_fields if name in type(self).model_fields
        }
        return FinetuneSettings(
            **{
                **shared,
                "command": "train-finetune",
                "backbone": student.backbone,
                "weights": student.weights,
                "input_size": student.input_size,
                "out": out,
            }
        )
