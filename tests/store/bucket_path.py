"""Objects of a bucket with the methods of a path that the suites of stores use, so that they run on buckets too."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self

from featcache.files.objects import Objects


@dataclass(frozen=True, order=True)
class BucketPath:
    """A name in a bucket; its methods do what those of :class:`pathlib.Path` do.

    Attributes:
        bucket: URL of the bucket.
        key: The name in it.
    """

    bucket: str
    key: str

    @property
    def _objects(self) -> Objects:
        return Objects(self.bucket)

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self.key)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, name: str) -> Self:
        return type(self)(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def parent(self) -> Self:
        return type(self)(self.bucket, str(self._pure.parent))

    @property
    def st_size(self) -> int:
        found = self._objects.find(self.key)
        assert found is not None, f"there is no {self}"
        return found.size

    def stat(self) -> Self:
        return self

    def relative_to(self, other: "BucketPath") -> PurePosixPath:
        return self._pure.relative_to(other._pure)

    def is_file(self) -> bool:
        return self._objects.find(self.key) is not None

    exists = is_file

    def is_symlink(self) -> bool:
        return False

    def rglob(self, _: str) -> Iterator[Self]:
        return (type(self)(self.bucket, one.name) for one in self._objects.walk(self.key))

    def read_bytes(self) -> bytes:
        data = self._objects.get(self.key)
        if data is None:
            raise FileNotFoundError(str(self))
        return data

    def write_bytes(self, data: bytes) -> None:
        self._objects.put(self.key, [bytes(data)], create=False)

    def unlink(self) -> None:
        self._objects.delete(self.key)
