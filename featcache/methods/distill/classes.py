"""The columns of a teacher's logits in the order of the students' classes."""

from collections.abc import Sequence

from featcache.errors import ConfigError


def columns_of(theirs: Sequence[str], wanted: Sequence[str], *, name: str) -> list[int]:
    """Where the classes of the students are among those of a teacher, which must be the same.

    Args:
        theirs: Class names of the teacher's logits.
        wanted: Class names of the students.
        name: The teacher, for the message.

    Raises:
        ConfigError: One of them has a class that the other lacks.
    """
    place = {label: number for number, label in enumerate(theirs)}
    lacking = [label for label in wanted if label not in place]
    beside = sorted(set(theirs) - set(wanted))
    if lacking or beside or len(place) < len(theirs):
        what = f"lacks {lacking[0]!r}" if lacking else f"has {beside[0]!r} besides" if beside else "names one twice"
        raise ConfigError(
            f"teacher {name} knows {len(theirs)} classes and the students learn {len(wanted)}, and it {what}; give "
            "teachers of the same classes, e.g. runs on the same label column"
        )
    return [place[label] for label in wanted]
