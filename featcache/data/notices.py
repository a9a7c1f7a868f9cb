"""Notices about the videos of a source, given before features are extracted from them."""

import logging
from collections.abc import Iterator

from featcache.data.manifest import Manifest

log = logging.getLogger(__name__)

_MOST_KINDS = 8
_SEE = "see 'Pixels that are not square, and HDR' in docs/decoding.md"


def warn(manifest: Manifest) -> None:
    """Log every notice about a manifest."""
    for notice in notices(manifest):
        log.warning("%s", notice)


def notices(manifest: Manifest) -> Iterator[str]:
    """Sentences about files that were left out, content under two names, and pixels that are used as stored."""
    if manifest.left_out:
        kinds = [f"{number} {kind}" for kind, number in list(manifest.left_out.items())[:_MOST_KINDS]]
        if more := len(manifest.left_out) - len(kinds):
            kinds.append(f"{more} other kinds")
        number = sum(manifest.left_out.values())
        yield f"left out of {manifest.root!r}, for their names are not those of videos: {number} ({', '.join(kinds)})"
    if same := manifest.same_content:
        video, earlier = same[0]
        yield (
            f"videos with the content of another one, under another name: {len(same)}, e.g. {video!r} (that of "
            f"{earlier!r}); each counts as a video of its own"
        )
    usable = [video for video in manifest.videos if video.status == "ok"]
    if odd := [video for video in usable if not video.has_square_pixels]:
        yield (
            f"videos whose pixels are not square: {len(odd)} of {len(usable)}, e.g. {odd[0].id!r} (width over height "
            f"{odd[0].pixel_aspect:.4g}); features are of the stored pixels, and a copy with square ones would have "
            f"others; {_SEE}"
        )
    if hdr := [video for video in usable if video.transfer]:
        yield (
            f"videos in HDR: {len(hdr)} of {len(usable)}, e.g. {hdr[0].id!r} ({hdr[0].transfer}); features are of the "
            f"stored values, without tone mapping, and a copy in SDR would have others; {_SEE}"
        )
