"""Format ``webdataset``: tar shards with ``<key>.npy`` and optionally ``<key>.json``, ``<key>.cls``, ``<key>.txt``.

The id is the member ``id`` of the JSON, otherwise the key. Members of other kinds, such as pickles, are never read.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache.data.manifest import id_problem
from featcache.errors import ExchangeError, FeatcacheError
from featcache.exchange.npy import UnreadableError, array_at, read_json
from featcache.exchange.optional import optional
from featcache.exchange.outgoing import Outgoing, Step
from featcache.exchange.sample import Sample, facts_of, id_of
from featcache.exchange.settings import ExportSettings, ImportSettings

_LABELS = {"cls": "label", "txt": "text"}
_MAX_MEMBER_BYTES = 256 << 20
_PICKLES = ("pth", "pt", "pkl", "pickle", "pyd", "npz")


@dataclass(slots=True)
class _Members:
    """The members that the shards hold under one key."""

    shard: Path
    key: str
    array: tuple[int, int] | None = None  # offset, bytes
    facts: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def read(settings: ImportSettings) -> list[Sample]:
    """Index the shards: the place of each array, and the facts beside it.

    Raises:
        ExchangeError: There is no shard, a shard is damaged or compressed, a member is not a plain file or its name
            would leave the folder to which it is unpacked, or a key occurs in two places.
    """
    source = Path(settings.source)
    shards = [source] if source.is_file() else sorted(source.glob("*.tar"))
    if not shards:
        raise ExchangeError(f"{source} holds no .tar shard; format webdataset takes a shard or a folder of shards")
    found: dict[str, _Members] = {}
    for shard in shards:
        for key, extension, member, data in _members(shard, settings.columns.npy):
            one = found.setdefault(key, _Members(shard=shard, key=key))
            if one.shard != shard or (extension == settings.columns.npy and one.array is not None):
                raise ExchangeError(
                    f"{shard} has the key {key!r}, which {one.shard} has too; a key stands for one video"
                )
            if extension == settings.columns.npy:
                one.array = (member.offset_data, member.size)
            elif extension == "json":
                one.facts = dict(read_json(data, f"{shard}, member {member.name!r}"))
            elif extension in _LABELS:
                one.labels[_LABELS[extension]] = data.decode("utf-8", "surrogateescape").strip()
            else:
                one.others.append(extension)
    samples = [_sample(one, settings.columns.npy) for one in found.values()]
    if not any(sample.shape for sample in samples):
        raise ExchangeError(f"{source} holds no member .{settings.columns.npy} that can be read; set columns.npy")
    return samples


def write(out: Outgoing, folder: Path, settings: ExportSettings, step: Step) -> dict[str, Any]:
    """Write shards of at most ``shard_megabytes`` (or one video): ``<number>.npy``, ``<number>.json`` of id and facts.

    Keys are numbers, because a webdataset key ends at the first dot of a name and ids have dots. Labels are in the
    JSON, because that library reads a ``.cls`` as a class number.
    """
    webdataset = optional("webdataset", extra="exchange")
    pattern = str(folder).replace("%", "%%") + "/shard-%06d.tar"
    writer = webdataset.ShardWriter(pattern, maxsize=settings.shard_megabytes * 1e6, verbose=0, mtime=0, encoder=False)
    with writer:
        for number, video in enumerate(out.videos):
            facts = facts_of(video, out.rows_of(video.id))
            members = {"__key__": f"{number:09d}", "json": json.dumps(facts, allow_nan=False).encode("ascii")}
            if out.num_rows(video.id):
                array = io.BytesIO()
                np.lib.format.write_array(array, out.values(video.id), allow_pickle=False)
                members["npy"] = array.getvalue()
            writer.write(members)
            step(number + 1, len(out.videos))
    return {"shards": len(list(folder.glob("*.tar")))}


def _members(shard: Path, npy: str) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes]]:
    """Key, extension and member of every file of a shard, and the bytes of facts and labels."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = member.name.removeprefix("./")
                if not member.isreg() or member.issparse():
                    raise ExchangeError(f"{shard}, member {name!r}: a link or a device; a shard holds plain files")
                if problem := id_problem(name):
                    raise ExchangeError(f"{shard}, member {name!r}: its name {problem}; nothing is read from it")
                parent, slash, base = name.rpartition("/")
                stem, _, extension = base.partition(".")
                extension = extension.lower()
                data = b""
                if extension != npy and (extension == "json" or extension in _LABELS):
                    if member.size > _MAX_MEMBER_BYTES:
                        raise ExchangeError(f"{shard}, member {name!r} has {member.size} bytes; facts are smaller")
                    file = archive.extractfile(member)
                    assert file is not None, "a plain file can be opened"
                    data = file.read()
                yield parent + slash + stem, extension, member, data
    except FeatcacheError:
        raise
    except (tarfile.TarError, ValueError, EOFError, OverflowError, LookupError) as error:
        raise ExchangeError(
            f"{shard} is damaged or no uncompressed tar file ({error}); restore it, since nobody knows what it held"
        ) from error


def _sample(one: _Members, npy: str) -> Sample:
    facts = {**one.facts}
    if one.labels:
        facts["labels"] = {**one.labels, **(facts.get("labels") or {})}
    where = f"{one.shard}, key {one.key!r}"
    video_id = id_of(facts, one.key, where)
    facts.setdefault("path", f"{one.shard.name}/{one.key}.{npy}")
    if one.array is None:
        pickled = [extension for extension in one.others if extension.rpartition(".")[2] in _PICKLES]
        why = f"key {one.key!r} has no .{npy}"
        why += f" (it has .{pickled[0]}, which may hold pickles and is never loaded)" if pickled else ""
        return Sample(id=video_id, where=where, facts=facts, problem=why if pickled else "")
    offset, num_bytes = one.array
    try:
        shape, dtype, reader = array_at(one.shard, offset=offset, num_bytes=num_bytes)
    except UnreadableError as problem:
        return Sample(id=video_id, where=where, facts=facts, problem=f"the array of key {one.key!r} {problem}")
    return Sample(id=video_id, where=where, shape=shape, dtype=dtype, read=reader, facts=facts)
