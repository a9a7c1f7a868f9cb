"""Videos in the places of damaged ones: the same for any number of processes, and never for a lost or changed file."""

import pickle
from concurrent.futures import Future

import numpy as np
import pytest

from featcache.data.manifest import Manifest
from featcache.data.scan import scan_file
from featcache.data.types import VideoRecord
from featcache.errors import VideoError
from featcache.loaders import ahead
from featcache.loaders.ahead import Batch, ViewLoader
from featcache.loaders.batches import VideoBatches
from featcache.loaders.stand_ins import StandIns
from featcache.loaders.usable import open_usable
from featcache.seeding import rng_for
from featcache.testing.damaged_files import overwrite_pictures
from featcache.testing.videos import picture, write_video
from featcache.training.skips import SkipLedger, read_skips
from featcache.training.world import ALONE, World

NUM_VIDEOS = 10
DAMAGED = {2: 3, 7: 5}
"""First packet that is overwritten, by video."""


class Corners:
    """One pixel of some frames of a video; a later epoch reads later ones."""

    def pixels(self, file, epoch):
        with file.open() as reader:
            frames = dict(reader.read(range(2 + 2 * epoch)))
            return (np.stack([frame[0, 0] for frame in frames.values()][:2]),)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of 8 frames, all of which pass the scan."""
    folder = tmp_path_factory.mktemp("damaged")
    for number in range(NUM_VIDEOS):
        pictures = [picture(11 * number + frame, width=48, height=32) for frame in range(8)]
        write_video(folder / f"{number}.mp4", pictures=pictures, options={"bf": "0"})
        if number in DAMAGED:
            overwrite_pictures(folder / f"{number}.mp4", first=DAMAGED[number])
    return scanned(folder)


def scanned(folder):
    rows = []
    for path in sorted(folder.iterdir()):
        *_, row = scan_file(VideoRecord(id=path.stem, path=path.name), path)
        rows.append(row)
    assert all(row.status == "ok" for row in rows)
    return Manifest(root=str(folder), videos=tuple(rows))


def opened(manifest):
    return open_usable(manifest.videos, root=manifest.root, decoder="pyav").files


def read_all(files, folder, *, workers, world=ALONE, max_damaged=0.3, epochs=4):
    """Numbers and pixels of every batch of a run."""
    skips = SkipLedger(folder, run=folder, rank=world.rank, num_videos=len(files.videos), max_damaged=max_damaged)
    stand_ins = StandIns(files, seed=3, skips=skips)
    with ViewLoader(Corners(), files, workers=workers, stand_ins=stand_ins) as loader:
        batches = VideoBatches(loader, batch_size=4, num_epochs=epochs, seed=3, world=world)
        return [batches.views(epoch, number) for epoch in range(epochs) for number in range(batches.num_batches)]


@pytest.fixture(scope="module")
def plain(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return read_all(opened(videos), folder, workers=0), read_skips(folder)


def test_another_video_takes_the_place_of_a_damaged_one_where_its_damage_is_read(videos, plain):
    batches, skips = plain
    files = opened(videos)
    order = VideoBatches(ViewLoader(Corners(), files, workers=0), batch_size=4, num_epochs=4, seed=3)
    expected = []
    for place, views in enumerate(batches):
        epoch, number = divmod(place, order.num_batches)
        for asked, got, pixels in zip(order._batch(epoch, number).videos, views.videos, views.arrays[0], strict=True):
            is_damaged = 2 + 2 * epoch > DAMAGED.get(asked, 99)
            if is_damaged:
                tried = rng_for(3, "in the place of", epoch, asked).permutation(NUM_VIDEOS)
                sound = [each for each in tried if each != asked and 2 + 2 * epoch <= DAMAGED.get(each, 99)]
                assert got == sound[0]
                expected.append((epoch, str(asked), str(got)))
            else:
                assert got == asked
            np.testing.assert_array_equal(pixels, Corners().pixels(files.file(got), epoch)[0])
    assert [(skip.epoch, skip.video, skip.instead) for skip in skips] == sorted(expected)
    assert {skip.epoch for skip in skips} <= {1, 2, 3}, "in the first epoch no damage is read"
    assert {skip.video for skip in skips} == {"2", "7"}
    assert all("damage" in skip.reason or "decoding fails" in skip.reason for skip in skips)


@pytest.mark.parametrize("workers", [1, 3])
def test_it_is_the_same_for_any_number_of_processes(videos, plain, tmp_path, workers):
    batches = read_all(opened(videos), tmp_path, workers=workers)
    for ours, theirs in zip(batches, plain[0], strict=True):
        assert ours.videos == theirs.videos
        np.testing.assert_array_equal(ours.arrays[0], theirs.arrays[0])
    assert read_skips(tmp_path) == plain[1]


def test_it_is_the_same_for_processes_that_share_a_batch(videos, plain, tmp_path):
    parts = [read_all(opened(videos), tmp_path, workers=0, world=World(rank=rank, size=2)) for rank in (0, 1)]
    for one, two, whole in zip(*parts, plain[0], strict=True):
        assert one.videos + two.videos == whole.videos
    assert read_skips(tmp_path) == plain[1]


def test_too_many_damaged_videos_stop_a_run(videos, tmp_path):
    message = r"2 of 10 training videos cannot be decoded, where max_damaged 0\.1 allows 1, e\.g\. '[27]' \("
    with pytest.raises(VideoError, match=message):
        read_all(opened(videos), tmp_path, workers=0, max_damaged=0.1)
    assert len({skip.video for skip in read_skips(tmp_path)}) == 1
    with pytest.raises(VideoError, match=r"1 of 10 training videos .* max_damaged 0 allows 0, e\.g\. '2'"):
        read_all(opened(videos), tmp_path / "none", workers=2, max_damaged=0.0)


def test_where_all_are_damaged_no_more_are_tried_than_are_allowed(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(6):
        write_video(folder / f"{number}.mp4", num_frames=6, width=48, height=32, options={"bf": "0"})
        overwrite_pictures(folder / f"{number}.mp4", first=1)
    files = opened(scanned(folder))
    with pytest.raises(VideoError, match=r"4 of 6 training videos .* where max_damaged 0\.5 allows 3, e\.g\. '\d' \("):
        read_all(files, tmp_path, workers=0, max_damaged=0.5)
    assert not read_skips(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), r"missing: '2' passed the scan and cannot be used now"),
        (lambda path: path.write_bytes(b"cut off"), r"changed: '2' passed the scan and cannot be used now"),
    ],
)
def test_a_lost_or_changed_video_stops_a_run(videos, tmp_path, workers, change, message):
    folder = tmp_path / "videos"
    folder.mkdir()
    for video in videos.videos:
        (folder / video.path).write_bytes(videos.path_of(video).read_bytes())
    manifest = Manifest(root=str(folder), videos=videos.videos)
    files = opened(manifest)
    for number in range(NUM_VIDEOS):  # as in a run that goes on: nothing is hashed again before it is decoded
        with files.open(number):
            pass
    change(folder / "2.mp4")
    with pytest.raises(VideoError, match=message):
        read_all(files, tmp_path, workers=workers)
    assert not read_skips(tmp_path)


def test_without_stand_ins_a_damaged_video_is_an_error_or_left_out(videos):
    files = opened(videos)
    with ViewLoader(Corners(), files, workers=0) as loader:
        with pytest.raises(VideoError, match=r"undecodable: '2' passed the scan and cannot be used now"):
            loader.views(Batch(3, (1, 2, 3)))
        left = loader.decodable(Batch(3, (1, 2, 3)))
        assert left.videos == (1, 3)
        assert len(left.arrays[0]) == 2
        assert loader.decodable(Batch(3, (2, 7))) == ((), ())


SIZES = []


class Counting:
    """Stands for the pool: counts the bytes that its processes would get, and decodes nothing."""

    def __init__(self, workers, *, mp_context, initializer, initargs):
        self.once = len(pickle.dumps((initializer, initargs)))

    def submit(self, function, *arguments):
        if arguments:
            SIZES.append((self.once, len(pickle.dumps((function, arguments)))))
        done = Future()
        done.set_result((np.zeros(1),))
        return done

    def shutdown(self, cancel_futures):
        pass


def test_a_process_gets_one_row_at_a_time_however_many_videos_there_are(videos, monkeypatch):
    monkeypatch.setattr(ahead, "ProcessPoolExecutor", Counting)
    SIZES.clear()
    row = videos.videos[0]
    for num_videos in (10, 10_000):
        files = opened(Manifest(root=videos.root, videos=(row,))).take([0] * num_videos)
        with ViewLoader(Corners(), files, workers=4) as loader:
            loader.views(Batch(0, (3, 5)))
    assert len(SIZES) == 4
    (once, each), *others = SIZES
    assert others == [(once, each)] * 3
    assert once < 200
    assert each < 1000
