"""What the disk of a store offers, found out once per store and recorded in it.

Most disks have hard links and locks. Where one of them is refused for the first time, the disk is tried, and what it
offers is recorded, so that all processes on all hosts publish in the same way. A store without a record is on a disk
that has both.
"""

import logging
import os
import secrets
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from featcache.errors import CorruptStoreError, StoreError
from featcache.files import claims, leases, locks, publish
from featcache.files.places import safe_join
from featcache.files.sealed import Bytes, read_sealed, seal

RECORD = "locks/disk.json"

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a disk offers.

    Attributes:
        links: Whether it has hard links.
        locks: Whether it has advisory locks.
    """

    links: bool
    locks: bool

    @property
    def note(self) -> str:
        """What follows, in a sentence without its end."""
        by = "publishes by hard links" if self.links else "has no hard links, publishes by renaming folders"
        among = "has locks" if self.locks else "has no locks, shares work by leases; `gc` needs --alone"
        return f"{by}; {among}"


ORDINARY = Offer(links=True, locks=True)


class Disk:
    """The disk of a store, as one process uses it.

    Attributes:
        root: Folder of the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._offer: Offer | None = None

    def __reduce__(self) -> tuple[type["Disk"], tuple[Path]]:
        return Disk, (self.root,)

    @property
    def offer(self) -> Offer:
        """What the store's record says, or, without one, that nothing is lacking."""
        if self._offer is None:
            self._offer = self._read() or ORDINARY
        return self._offer

    def put_new(self, path: Path, data: Bytes | Iterable[Bytes]) -> bool:
        """Publish a file unless its name is taken. See :func:`featcache.files.publish.put_new`."""
        chunks = data if isinstance(data, (bytes, np.ndarray)) else tuple(data)
        return self._published(publish.put_new, claims.put_new)(path, chunks)

    def put_exact(self, path: Path, data: bytes | tuple[Bytes, ...]) -> None:
        """Publish a file whose bytes follow from others. See :func:`featcache.files.publish.put_exact`."""
        self._published(publish.put_exact, claims.put_exact)(path, data)

    def _published(self, by_link: Callable[P, T], by_claim: Callable[P, T]) -> Callable[P, T]:
        def put(*args: P.args, **kwargs: P.kwargs) -> T:
            if self.offer.links:
                try:
                    return by_link(*args, **kwargs)
                except publish.NoLinksError:
                    if self._find_out().links:  # a hitch, or another reason
                        raise
            return by_claim(*args, **kwargs)

        return put

    @contextmanager
    def lock(self, path: Path, *, exclusive: bool, wait_seconds: float | None) -> Generator[None]:
        """Hold a lock, or where there are none a lease. See :meth:`featcache.files.base.Files.lock`."""
        with ExitStack() as stack:
            if not self._locked(lambda: stack.enter_context(self._lock(path, exclusive, wait_seconds))):
                if exclusive and wait_seconds is not None:
                    raise StoreError(
                        f"the disk of {self.root} has no locks, so nobody can tell whether another process writes "
                        "there; make sure that none does on any host, then say so with --alone"
                    )
                if exclusive:
                    stack.enter_context(leases.lease(path))
            yield

    @contextmanager
    def _lock(self, path: Path, exclusive: bool, wait_seconds: float | None) -> Generator[bool]:
        with locks.lock(path, exclusive=exclusive, wait_seconds=wait_seconds):
            yield True

    @contextmanager
    def try_lock(self, path: Path, *, exclusive: bool) -> Generator[bool]:
        """Hold a lock or a lease if it is free. See :meth:`featcache.files.base.Files.try_lock`."""
        with ExitStack() as stack:
            held = self._locked(lambda: stack.enter_context(locks.try_lock(path, exclusive=exclusive)))
            if held is None:
                held = not exclusive or stack.enter_context(leases.try_lease(path))
            yield held

    def _locked(self, attempt: Callable[[], bool]) -> bool | None:
        """What an attempt to lock has come to, or ``None`` if the disk has no locks."""
        if self.offer.locks:
            try:
                return attempt()
            except locks.NoLocksError:
                if self._find_out().locks:  # a hitch
                    raise
        return None

    def _find_out(self) -> Offer:
        """Try the disk, and record it unless it is an ordinary one or recorded."""
        place = safe_join(self.root, RECORD)
        publish.ensure_folder(place.parent)
        found = examine(place.parent)
        if found != ORDINARY and self._read() is None:
            # By a claim wherever that may be: hosts that find different things must agree on one record.
            claims.put_new(place, seal({"format": "featcache", "version": 2, "kind": "disk", **asdict(found)}))
        known = self._read() or ORDINARY
        if (known.links and not found.links) or (known.locks and not found.locks):
            raise StoreError(
                f"{place} says that the disk {known.note}, and here it {found.note}; if the store was copied here, "
                "remove that file while nothing writes, then run the same command again"
            )
        self._offer = known
        self._tell(known)
        return known

    def _read(self) -> Offer | None:
        place = safe_join(self.root, RECORD)
        if not os.path.lexists(place):
            return None
        try:
            document = read_sealed(place, what="record of the disk")
            offer = Offer(links=document["links"], locks=document["locks"])
        except (CorruptStoreError, KeyError) as error:
            raise CorruptStoreError(
                f"{place} is damaged; remove it while nothing writes to the store, then run the same command again"
            ) from error
        self._tell(offer)
        return offer

    def _tell(self, offer: Offer) -> None:
        if offer != ORDINARY and self.root not in _told:
            _told.add(self.root)
            log.warning("the disk of %s %s", self.root, offer.note)


_told: set[Path] = set()


def examine(folder: Path) -> Offer:
    """Try what the disk of an existing folder offers.

    Raises:
        StoreError: It offers no safe way to publish a file, or no file can be written there.
    """
    with publish.explained(folder, "try the disk of"):
        box = folder / f".disk.{secrets.token_hex(8)}{publish.TEMP_SUFFIX}"
        box.mkdir()
        try:
            offer = Offer(links=_has_links(box), locks=_has_locks(box))
            if offer != ORDINARY and not _spares_full_folders(box):
                raise StoreError(
                    f"the disk of {folder} lacks {'locks' if offer.links else 'hard links'}, and renames folders over "
                    "full ones or not at all, so that no file can be published safely there; choose another disk"
                )
        finally:
            _remove_all(box)
    return offer


def _has_links(box: Path) -> bool:
    name = _file(box)
    try:
        os.link(name, box / f".linked{publish.TEMP_SUFFIX}", follow_symlinks=False)
    except OSError as error:
        if error.errno in publish.NO_LINKS:
            return False
        raise
    return True


def _has_locks(box: Path) -> bool:
    try:
        with locks.try_lock(_file(box), exclusive=True):
            return True
    except locks.NoLocksError:
        return False


def _spares_full_folders(box: Path) -> bool:
    """Whether a folder takes the name of an empty one, and never that of a full one."""
    first, second, third = (box / f".{name}{publish.TEMP_SUFFIX}" for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    file, other = _file(first), _file(third)
    try:
        first.rename(second)
    except OSError:
        return False
    try:
        third.rename(second)
    except OSError:
        return (second / file.name).exists() and other.exists()
    return False


def _file(folder: Path) -> Path:
    """A new file; all that is left of a killed trial is named like a temporary file."""
    return publish.write_temp(folder / "file", b"trial")


def _remove_all(folder: Path) -> None:
    with suppress(OSError):  # a left-over that gc removes; the original error matters more
        for entry in list(folder.iterdir()):
            if entry.is_dir():
                _remove_all(entry)
            else:
                entry.unlink()
        folder.rmdir()
