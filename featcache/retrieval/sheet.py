"""The contact sheet: one picture of the hits' middle frames, read from the source videos that still exist."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from featcache.data.decoding import open_video
from featcache.data.decoding.pool import Failed, Payload, WorkerPool
from featcache.data.hashing import content_hash
from featcache.data.remote import is_there
from featcache.errors import VideoError
from featcache.extract.origin import source_roots
from featcache.files.urls import place_of
from featcache.retrieval.run import Hit, SearchResult
from featcache.store.reader import open_store
from featcache.units import printable

TILE_WIDTH, TILE_HEIGHT = 240, 180
COLUMNS = 5
_FONT_SIZE = 13
_LINES = 3
_CAPTION_HEIGHT = 6 + _LINES * (_FONT_SIZE + 3)
_BACKGROUND, _GREY, _INK = (255, 255, 255), (190, 190, 190), (20, 20, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameJob:
    """One frame to read in a worker process; picklable.

    Attributes:
        paths: Paths at which the file may be.
        content_hash: Hash of the file that was extracted; another file is not shown.
        decoder: Name of the store's decoder.
        frame: Index of the frame.
    """

    paths: tuple[str, ...]
    content_hash: str
    decoder: str
    frame: int


def contact_sheet(
    result: SearchResult, *, videos: str | Path | None = None, deadline_seconds: float = 60.0
) -> Image.Image:
    """Draw the hits, best first, with rank, score, id, times and label; a video that is gone gets a grey tile.

    Args:
        result: Result of a search.
        videos: Folder to which the videos' paths are relative; ``None``: the folder from which they were extracted.
        deadline_seconds: A video whose decoder makes no progress for this time gets a grey tile.
    """
    store = open_store(result.store)
    roots = [Path(videos)] if videos is not None else source_roots(store)
    jobs = [
        FrameJob(
            paths=tuple(str(place_of(root, store.videos[hit.video].path)) for root in roots),
            content_hash=store.videos[hit.video].content_hash,
            decoder=store.sampling.decoder,
            frame=hit.frame,
        )
        for hit in result.hits
    ]
    pictures: list[Image.Image] = [_grey("video gone")] * len(jobs)
    with WorkerPool(read_tile, name=lambda job: " or ".join(job.paths), deadline_seconds=deadline_seconds) as pool:
        for event in pool.run(jobs):
            if isinstance(event, Payload):
                pictures[event.item] = Image.fromarray(event.value)
            elif isinstance(event, Failed):
                pictures[event.item] = _grey("video gone" if event.status == "missing" else f"video {event.status}")
    return _arrange(pictures, result.hits)


def read_tile(job: FrameJob) -> Iterator[npt.NDArray[np.uint8]]:
    """Read the frame as a thumbnail, uint8 RGB [h, w, 3], that fits into a tile.

    Raises:
        VideoError: ``missing``, ``changed`` or ``undecodable``.
    """
    path = next((Path(path) for path in job.paths if is_there(Path(path))), None)
    if path is None:
        raise VideoError("missing", "there is no such file any more")

    def check(file: Path) -> None:
        if job.content_hash and content_hash(file) != job.content_hash:
            raise VideoError("changed", f"{path.name} is another file than the one that was extracted")

    with open_video(path, decoder=job.decoder, check=check) as reader:
        for _, frame in reader.read([max(0, job.frame)]):
            image = Image.fromarray(frame)
            image.thumbnail((TILE_WIDTH, TILE_HEIGHT))
            yield np.asarray(image)


def _grey(words: str) -> Image.Image:
    tile = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), _GREY)
    ImageDraw.Draw(tile).text(
        (TILE_WIDTH / 2, TILE_HEIGHT / 2), words, fill=_INK, anchor="mm", font=ImageFont.load_default(_FONT_SIZE)
    )
    return tile


def _arrange(pictures: Sequence[Image.Image], hits: Sequence[Hit]) -> Image.Image:
    columns = max(1, min(COLUMNS, len(hits)))
    rows = max(1, -(-len(hits) // columns))
    sheet = Image.new("RGB", (columns * TILE_WIDTH, rows * (TILE_HEIGHT + _CAPTION_HEIGHT)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, hit) in enumerate(zip(pictures, hits, strict=True)):
        left, top = number % columns * TILE_WIDTH, number // columns * (TILE_HEIGHT + _CAPTION_HEIGHT)
        sheet.paste(picture, (left + (TILE_WIDTH - picture.width) // 2, top + (TILE_HEIGHT - picture.height) // 2))
        font = ImageFont.load_default(_FONT_SIZE)
        lines = [_fitting(draw, line, font) for line in caption(hit)]
        draw.text((left + 4, top + TILE_HEIGHT + 3), "\n".join(lines), fill=_INK, font=font, spacing=3)
    return sheet


def caption(hit: Hit) -> tuple[str, str, str]:
    """Three lines: rank and score; the video; its label and times."""
    times = (
        ""
        if hit.start_seconds is None or hit.end_seconds is None
        else (f"{hit.start_seconds:.1f}-{hit.end_seconds:.1f} s")
    )
    about = "  ".join(part for part in (hit.label, times) if part)
    return f"{hit.rank}.  {hit.score:.3f}", printable(hit.video), printable(about)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or its end if it is too long for a tile: the end of a path says more than its beginning."""
    shown = text
    while draw.textlength(shown, font=font) > TILE_WIDTH - 8:
        shown = "…" + shown[2:] if shown.startswith("…") else "…" + shown[1:]
    return shown
