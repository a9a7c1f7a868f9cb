"""``search``: find clips and videos of a store by a video or a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.console import print_json, print_line, print_table

if TYPE_CHECKING:
    from featcache.commands.registry import SearchSettings
    from featcache.retrieval import SearchResult


def register(app: typer.Typer) -> None:
    """Add this room's verb."""
    app.command(
        epilog="Example: `featcache search stores/mine --video query.mp4 --sheet hits.png`  \n"
        'By text: `featcache search stores/clip --text "a dog catches a frisbee" --by video`'
    )(search)


def search(
    store: Annotated[str, typer.Argument(help="A store.")],
    video: Annotated[str | None, typer.Option("--video", "-v", help="Find what is like this file.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", "-t", help="Find what fits these words (CLIP's layer `proj` alone).")
    ] = None,
    feature: Annotated[str | None, typer.Option("--feature", "-f", help="Array, where there are several.")] = None,
    by: Annotated[str, typer.Option(help="`clip`: every row; `video`: the mean of each video's rows.")] = "clip",
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    engine: Annotated[str, typer.Option(help="`exact` (torch) or `faiss`; both are exact.")] = "exact",
    exclude_self: Annotated[bool, typer.Option("--exclude-self", help="Leave out the query's own file.")] = False,
    label: Annotated[str, typer.Option("--label", "-l", help="Label column to show.")] = "label",
    sheet: Annotated[str | None, typer.Option(help="Draw the hits into this PNG or JPEG.")] = None,
    videos: Annotated[
        str | None, typer.Option(help="Folder of the videos for --sheet.  [default: where they were]")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", "-w", help="The backbone's weights, if moved.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Find the clips or videos of a store that are most like a video or a text."""
    from featcache.commands.registry import SearchSettings
    from featcache.config import parse

    data = {
        "store": store,
        "video": video,
        "text": text,
        "feature": feature,
        "by": by,
        "k": k,
        "engine": engine,
        "exclude_self": exclude_self,
        "label": label,
        "sheet": sheet,
        "videos": videos,
        "weights": weights,
        "device": device,
    }
    run_search(parse(SearchSettings, data), as_json=as_json)


def run_search(settings: "SearchSettings", *, as_json: bool = False) -> None:
    """Carry out ``search``, print the hits and draw the sheet."""
    from featcache.retrieval import TextQuery, VideoQuery
    from featcache.retrieval import search as find
    from featcache.store.reader import open_store

    store = open_store(settings.store)
    query = VideoQuery(settings.video) if settings.video is not None else TextQuery(settings.text or "")
    weights = None
    if settings.weights is not None:
        names = [settings.feature] if settings.feature in store.features else list(store.features)
        weights = {store.features[name][0].backbone: settings.weights for name in names if name is not None}
    result = find(
        store,
        query,
        feature=settings.feature,
        by=settings.by,
        k=settings.k,
        engine=settings.engine,
        exclude_self=settings.exclude_self,
        label=settings.label,
        weights=weights,
        device=settings.device,
    )
    if settings.sheet is not None:
        _draw(result, settings)
    if as_json:
        print_json({**result.to_dict(), "sheet": settings.sheet})
    else:
        print_result(result)
        if settings.sheet is not None:
            print_line(f"drawn to {settings.sheet}", dim=True)


def _draw(result: "SearchResult", settings: "SearchSettings") -> None:
    import io

    from featcache.files.publish import put_replace
    from featcache.retrieval.sheet import contact_sheet

    assert settings.sheet is not None, "a sheet was asked for"
    target, buffer = Path(settings.sheet), io.BytesIO()
    contact_sheet(result, videos=settings.videos).save(buffer, "PNG" if target.suffix.lower() == ".png" else "JPEG")
    put_replace(target, buffer.getvalue())


def print_result(result: "SearchResult") -> None:
    """The hits, and how much of the store they were chosen from."""
    rows = [
        (hit.video, hit.label, hit.rank, f"{hit.score:.4f}", _seconds(hit.start_seconds), _seconds(hit.end_seconds))
        for hit in result.hits
    ]
    title = f"{len(result.hits)} {result.by}s of {result.feature!r} most like the query"
    print_table(title, ("video", "label", "rank", "cosine", "from s", "to s"), rows, num_text=2)
    coverage = result.coverage
    left_out = f", {len(result.excluded)} left out as the query itself" if result.excluded else ""
    print_line(f"searched {coverage.ok} of {coverage.total} videos ({coverage.failed} failed){left_out}", dim=True)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


RUNNERS = {"search": run_search}
