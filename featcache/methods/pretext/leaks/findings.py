"""What an audit has found, as numbers and in words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featcache.methods.pretext.leaks.clips import MOVING, REPEATED
from featcache.methods.pretext.leaks.cues import FIRST_FRAME, PIXELS
from featcache.summary import Summary, SummaryTable, percent

LENGTH, PLACE = "length of the video", "place in the video"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How well a cue tells something.

    Attributes:
        control: The kind of videos; or what a video is told by without its pixels, its length or the place of clips.
        question: What is asked: the name of a target, or which clips belong together.
        cue: What it is told by.
        value: Accuracy, the mean over answers; of pixels, the share of their variance that a clip's mean frame has.
        low: Lower end of the interval.
        high: Upper end.
        chance: Accuracy of a guess.
    """

    control: str
    question: str
    cue: str
    value: float
    low: float
    high: float
    chance: float

    @property
    def is_told(self) -> bool:
        """Whether the interval lies above a guess."""
        return self.low > self.chance


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakResult:
    """What an audit has found.

    Attributes:
        folder: Folder of the result.
        task: Name of the task.
        num_draws: Number of draws of each kind of videos.
        findings: What each cue tells about each kind.
    """

    folder: str
    task: str
    num_draws: int
    findings: tuple[Finding, ...]

    @property
    def leaks(self) -> tuple[str, ...]:
        """What tells an answer without motion, in words."""
        return tuple(_leaks(self.findings))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        findings = [{**asdict(each), "is_told": each.is_told} for each in self.findings]
        return {**asdict(self), "findings": findings, "leaks": list(self.leaks)}

    def summary(self) -> Summary:
        """For each kind of videos and each question the best cue, and the leaks in words."""
        rows = tuple(
            (
                each.control,
                each.question,
                each.cue,
                "told" if each.is_told else "at chance",
                percent(each.value, each.low, each.high),
                f"{100 * each.chance:.1f}",
            )
            for each in _strongest(self.findings)
        )
        columns = ("videos", "question", "best cue", "verdict", "accuracy", "a guess")
        title = f"{self.task}: what is told without motion?"
        return Summary(
            tables=(SummaryTable(title=title, columns=columns, rows=rows, num_text=4),),
            facts={"draws": f"{self.num_draws} of each kind of videos", "run": self.folder},
            lines=self.leaks or (f"nothing tells what {self.task} asks without motion",),
        )


def _strongest(findings: Iterable[Finding]) -> list[Finding]:
    """The best cue for each kind of videos and each question, of those that tell something if there are any."""
    best: dict[tuple[str, str], Finding] = {}
    for each in findings:
        key = (each.control, each.question)
        if key not in best or (each.is_told, each.value) > (best[key].is_told, best[key].value):
            best[key] = each
    return list(best.values())


def _leaks(findings: Sequence[Finding]) -> Iterator[str]:
    """A sentence for each leak, by its best cue; what a single frame tells, the codec is not blamed for."""
    told = [each for each in findings if each.is_told]
    from_one_frame = {(each.question, each.cue) for each in told if each.control == REPEATED.name}
    leaks = [
        each
        for each in told
        if each.control == REPEATED.name
        or (
            (each.question, each.cue) not in from_one_frame and (each.control != MOVING.name or each.cue == FIRST_FRAME)
        )
    ]
    for each in _strongest(leaks):
        what = f"{each.question!r} in {100 * each.value:.1f} %, where a guess is right in {100 * each.chance:.1f} %"
        if each.control in (LENGTH, PLACE):
            yield f"the {each.control} tells {what}"
        elif each.question == PIXELS:
            yield "one frame holds all pixels that are asked for if the camera stands still: motion is not needed"
        elif each.control == REPEATED.name and each.cue == FIRST_FRAME:
            yield f"one frame tells {what}: motion is not needed"
        elif each.control == REPEATED.name:
            yield f"the clip of one repeated frame changes, by which it tells {what}"
        elif each.control != MOVING.name:
            yield f"the codec tells {what} ({each.control}, {each.cue})"
        else:
            yield f"where the camera moves, first frames tell {what}: how they change is not needed"
