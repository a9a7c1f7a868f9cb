"""Rows read many at a time: equal to loaded rows in every order, checked, safe with forks, threads and few files."""

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import CorruptStoreError, TooManyFilesError
from featcache.files.ranges import LocalRanges
from featcache.store import index, reads, stretches, writer
from featcache.store.reader import open_store
from featcache.testing.faults import flipped_bit
from featcache.testing.stores import StorePlan, make_record, write_store

RECORDS = {
    "small": make_record((6,)),
    "large": make_record((3, 5, 160), "float32"),  # rows of more than 4 KB are copied one by one
    "bytes": make_record((2, 5), "int8"),
}
FORMATS = ("zarr", "hdf5")
WAYS = [("mmap", 0), ("disk", 0), ("disk", 1 << 20)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A store of each format with several blocks per shard, absent rows and two generations."""
    root = tmp_path_factory.mktemp("reads")
    many = StorePlan(
        records=RECORDS, num_videos=11, rows_per_video=(4, 1, 3, 19), shard_rows=16, failing={5: "timeout"}
    )
    later = StorePlan(records=RECORDS, num_videos=3, first_video=11, shard_rows=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "MAX_BLOCK_BYTES", 4 * RECORDS["large"].num_bytes)
        for file_format in FORMATS:
            write_store(root / file_format, many, later, file_format=file_format)
    return root


@pytest.fixture(scope="module")
def path(both):
    return both / "zarr"


def read_at_once(monkeypatch, num_bytes):
    for module in (stretches, index, reads):
        monkeypatch.setattr(module, "READ_BYTES", num_bytes)


@pytest.fixture
def taken(monkeypatch):
    """Sizes of all reads."""
    sizes = []
    read = LocalRanges.read
    monkeypatch.setattr(LocalRanges, "read", lambda self, at, into: (sizes.append(len(into)), read(self, at, into))[1])
    return sizes


def opened(path, name="large", **how):
    return open_store(path).feature(name, device="disk", **how)


def whole(path, name="large"):
    return open_store(path).feature(name, device="ram")[:]


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=40)
@given(name=st.sampled_from(list(RECORDS)), data=st.data())
def test_rows_equal_those_in_memory_in_any_order(both, file_format, name, data):
    path = both / file_format
    expected = whole(path, name)
    number = st.integers(-len(expected), len(expected) - 1)
    with pytest.MonkeyPatch.context() as patch:
        read_at_once(patch, data.draw(st.sampled_from([1, 80_000, 512 << 10])))
        features = opened(
            path,
            name,
            max_open_maps=data.draw(st.integers(1, 6)),
            verify=data.draw(st.booleans()),
            keep_bytes=data.draw(st.sampled_from([0, 1, 100_000, 1 << 20])),
        )
    for _ in range(3):  # blocks are not checked, some are, most are
        rows = np.array(data.draw(st.lists(number, max_size=40)), np.int64)
        if data.draw(st.booleans()):
            features.ahead(rows)
        out = np.empty((len(rows), *features.record.shape), features.dtype)
        assert features.gather(rows).tobytes() == expected[rows].tobytes()
        assert features.gather(rows, out=out) is out
        assert out.tobytes() == expected[rows].tobytes()
        assert features.num_open_maps <= 6
    features.close()
    assert features.num_open_maps == 0
    assert features[:].tobytes() == expected.tobytes()


def test_a_block_is_read_as_a_whole_until_it_is_checked(path, taken, monkeypatch):
    features = opened(path)
    rows = features.rows_of("v0003")[:2]
    features.gather(features.rows_of("v0000"))  # opens the first file
    monkeypatch.setattr(reads, "_GAP_BYTES", 0)
    row = features.record.num_bytes
    for expected in ([4 * row], [row]):
        taken.clear()
        features.close()
        features.gather(rows[:1])
        assert taken[-1:] == expected
    taken.clear()
    features.gather(rows[[1, 0, 0]])
    assert taken == [2 * row], "neighbours are read at once, and a row only once"
    taken.clear()
    features.gather(features.rows_of("v0003")[[1, 3]])
    assert taken == [row, row]


@pytest.mark.parametrize(("file_format", "between"), [("zarr", 4), ("hdf5", 0)])
def test_neighbouring_blocks_are_read_at_once_up_to_a_size(both, taken, monkeypatch, file_format, between):
    row = RECORDS["large"].num_bytes
    read_at_once(monkeypatch, 3 * 4 * row)
    features = opened(both / file_format)
    expected = whole(both / file_format)
    mine = np.flatnonzero(features._index.file == 1)
    blocks = features._index.block[mine]
    assert np.array_equal(np.unique(blocks, return_counts=True)[1], [4, 4, 4, 4]), "a whole file"
    features.gather(mine[:1])  # opens the file and checks the first block
    taken.clear()
    assert features.gather(mine[::-1]).tobytes() == expected[mine[::-1]].tobytes()
    assert sorted(taken) == [4 * row, 3 * 4 * row + 2 * between], "of the first block only the rows"
    taken.clear()
    assert features.gather(mine).tobytes() == expected[mine].tobytes()
    assert sorted(taken) == [4 * row, 3 * 4 * row + 2 * between], "three blocks are read at once, checked or not"
    taken.clear()
    features.gather(mine[[0, 12]])
    assert taken == [row, row], "rows that are far apart are not"


def test_only_wanted_blocks_are_read_with_others(path, taken, monkeypatch):
    """A read ends where a block is not wanted, although it would fit."""
    row = RECORDS["large"].num_bytes
    features = opened(path)
    mine = np.flatnonzero(features._index.file == 1)
    features.gather(mine[:1])
    taken.clear()
    features.gather(mine[[4, 12]])
    assert taken == [4 * row, 4 * row]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("num_bytes", [1, 100_000, 1 << 30])
def test_stretches_are_whole_blocks_of_one_file_and_nest(both, monkeypatch, file_format, num_bytes):
    read_at_once(monkeypatch, 2 * 4 * RECORDS["large"].num_bytes)
    places = opened(both / file_format)._index
    inner, outer = places.stretches(index.READ_BYTES), places.stretches(num_bytes)
    assert inner[0] == outer[0] == 0
    assert set(np.diff(inner)) == set(np.diff(outer)) == {0, 1}
    for stretch in range(inner[-1] + 1):
        blocks = np.flatnonzero(inner == stretch)
        assert 1 <= len(blocks) <= 2
        assert len(np.unique(outer[blocks])) == 1
    for blocks in (np.flatnonzero(outer == stretch) for stretch in range(outer[-1] + 1)):
        rows = np.isin(places.block, blocks)
        assert len(np.unique(places.file[rows])) <= 1
    per_file = [len(np.unique(outer[places.block[places.file == file]])) for file in range(len(places.files))]
    assert max(per_file) == (2 if num_bytes <= 100_000 else 1)


@pytest.mark.parametrize(("device", "keep_bytes"), WAYS)
def test_a_flipped_bit_is_an_error_whichever_row_of_the_block_is_read(path, device, keep_bytes):
    features = open_store(path).feature("large", device=device, keep_bytes=keep_bytes)
    expected = whole(path)
    rows = np.flatnonzero(features._index.block == features._index.block[7])
    assert len(rows) == 4
    file = features._index.files[features._index.file[7]]
    damaged = int(features._index.offset[rows[2]])
    others = np.setdiff1d(np.arange(len(expected)), rows)
    with flipped_bit(path / file.name, 8 * damaged + 3):
        for row in rows:
            features.ahead([row])
            with pytest.raises(CorruptStoreError, match=r"block \d of .* is damaged"):
                features.gather([row])
            with pytest.raises(CorruptStoreError, match="is damaged"):
                features.gather(np.arange(len(expected)))
        assert features.gather(others).tobytes() == expected[others].tobytes()
    assert features[:].tobytes() == expected.tobytes()


def test_a_file_that_shrinks_while_it_is_open_is_an_error(path):
    features = opened(path)
    features.gather([0])
    file = path / features._index.files[0].name
    content = file.read_bytes()
    os.truncate(file, 100)  # a mapped file would end the process
    try:
        with pytest.raises(CorruptStoreError, match="ends before byte"):
            features.gather([0, 1])
    finally:
        file.write_bytes(content)
    assert features.gather([0]).tobytes() == whole(path)[:1].tobytes()


def test_an_error_of_the_disk_names_the_file(path, monkeypatch):
    features = opened(path)
    features.gather([0])

    def fail(*_):
        raise OSError(errno.EIO, "made so")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CorruptStoreError, match=r"data file .* cannot be read \(Input/output error\)"):
        features.gather(np.arange(20))


def in_child(features, expected, answers):
    answers.put(features[:].tobytes() == expected.tobytes())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("start", "device", "keep_bytes"),
    [("fork", "mmap", 0), ("fork", "disk", 0), ("fork", "disk", 1 << 20), ("spawn", "disk", 0)],
)
def test_other_processes_go_on_with_an_open_feature(path, start, device, keep_bytes):
    features = open_store(path).feature("large", device=device, max_open_maps=2, keep_bytes=keep_bytes)
    expected = whole(path)
    stop = threading.Event()

    def read():
        while not stop.is_set():
            features.gather(np.arange(len(expected)))

    reading = threading.Thread(target=read)  # holds the lock, and is no thread of the child
    reading.start()
    context = multiprocessing.get_context(start)
    answers = context.Queue()
    try:
        for _ in range(4 if start == "fork" else 1):
            child = context.Process(target=in_child, args=(features, expected, answers))
            child.start()
            assert answers.get(timeout=60)
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        reading.join()
    assert features[:].tobytes() == expected.tobytes()


@pytest.mark.parametrize("keep_bytes", [0, 100_000])
def test_closing_waits_for_the_reads_of_other_threads(path, keep_bytes):
    features = opened(path, keep_bytes=keep_bytes)
    expected = whole(path)
    rows = np.random.default_rng(0).permutation(len(expected))
    wrong = []

    def read():
        for _ in range(30):
            features.ahead(rows)
            if features.gather(rows).tobytes() != expected[rows].tobytes():
                wrong.append(True)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        features.close()
    assert not wrong


FEW = """
import os, resource, sys
import numpy as np
from featcache.errors import TooManyFilesError
from featcache.store.reader import open_store
features = open_store(sys.argv[1]).feature(device=sys.argv[2], max_open_maps=1000, keep_bytes=int(sys.argv[3]))
rows = np.random.default_rng(0).permutation(features.num_rows)
features.gather(rows[:1])  # modules that are imported on the way
features.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    features.gather(rows)
except TooManyFilesError as error:
    assert "raise the limit (`ulimit -n`)" in str(error), error
else:
    raise AssertionError
for fd in held[-9:]:
    os.close(fd)
features.ahead(rows[:4])
values = features.gather(rows)
assert features.num_open_maps <= 9
sys.stdout.buffer.write(values[np.argsort(rows)].tobytes())
"""


@pytest.mark.parametrize(("device", "keep_bytes"), WAYS)
def test_fewer_files_than_the_limit_promises(tmp_path, device, keep_bytes):
    write_store(tmp_path / "s", StorePlan(records={"a": make_record((3,))}, num_videos=40, shard_rows=4))
    done = subprocess.run(
        [sys.executable, "-c", FEW, str(tmp_path / "s"), device, str(keep_bytes)], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert whole(tmp_path / "s", "a").tobytes() in done.stdout


def test_too_many_open_files_is_no_damage(path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EMFILE, "made so")

    features = opened(path)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(TooManyFilesError, match="as many files open as it may"):
        features.gather([0])


def test_stretches_are_kept_within_their_room_and_read_again_after_it(path, taken, monkeypatch):
    row = RECORDS["large"].num_bytes
    read_at_once(monkeypatch, 2 * 4 * row)
    size = 2 * 4 * row + 4  # two blocks, and the checksum between them
    features = opened(path, keep_bytes=2 * size)
    stretch = features._index.stretches(2 * 4 * row)[features._index.block]
    full = [places for number in np.unique(stretch) if len(places := np.flatnonzero(stretch == number)) == 8]

    def num_reads(rows):
        taken.clear()
        features.gather(rows)
        return sum(length == size for length in taken)

    first, second, third = full[:3]
    assert num_reads(first[:1]) == 1
    assert num_reads(np.concatenate([first, second, first])) == 1
    assert num_reads(first[2:]) == num_reads(second[3:]) == 0
    assert num_reads(third) == 1
    assert num_reads(second) == 0
    assert num_reads(first) == 1, "it was used before the second one"
    features.ahead(third[:1])
    assert num_reads(third) + sum(length == size for length in taken) <= 2
    assert num_reads(np.arange(len(stretch))) >= len(full) - 3
    assert features._reader._kept_bytes <= 2 * size
    features.close()
    assert num_reads(first) == 1


def test_a_disk_without_direct_reads_is_read_all_the_same(path, monkeypatch):
    features = opened(path, keep_bytes=1 << 20)
    preadv, refused = os.preadv, []

    def refuse(fd, buffers, offset):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(fd)
            raise OSError(errno.EINVAL, "made so")
        return preadv(fd, buffers, offset)

    expected = whole(path)
    monkeypatch.setattr(os, "preadv", refuse)
    assert features[:].tobytes() == expected.tobytes()
    assert refused
    monkeypatch.setattr("featcache.files.ranges._set_direct", lambda *_: False)
    refused.clear()
    assert opened(path, keep_bytes=1 << 20)[:].tobytes() == expected.tobytes()
    assert not refused
