"""Stores in buckets, on a local server of the S3 protocol."""

import pytest

from featcache.errors import BucketError, ConfigError, StoreError
from featcache.store.comparing import diff
from featcache.store.copying import convert, merge
from featcache.store.gc import gc
from featcache.store.reader import open_store
from featcache.store.settings import ConvertSettings, DiffSettings, MergeSettings
from featcache.store.verify import verify
from featcache.testing.s3_server import s3_server
from featcache.testing.store_suite import StoreConformance
from featcache.testing.stores import StorePlan, make_record, write_store
from tests.store.bucket_path import BucketPath
from tests.store.histories import extend, say, video


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        yield running


class OnBucket:
    @pytest.fixture
    def tmp_path(self, server, request, tmp_path_factory, monkeypatch):
        monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        if "damaged" in request.node.name:  # in the bucket, while what is kept here would still be whole
            monkeypatch.setenv("FEATCACHE_CACHE_GB", "0")
        return BucketPath("s3://lab", f"{type(self).__name__}-{request.node.name}")


class TestSome(OnBucket, StoreConformance):
    """What takes few requests, each of which the test server answers slowly."""

    file_format = "zarr"
    test_a_feature_added_later_equals_one_made_at_once = None
    test_all_videos_failing_is_an_empty_feature = None
    test_the_latest_ok_wins = None
    test_a_store_grown_twice_equals_one_made_at_once = None
    test_committing_again_changes_nothing = None
    test_damaged_data_files_are_never_read = None
    test_few_maps_threads_and_pickles_read_the_same = None
    test_left_overs_of_other_bytes_are_replaced = None
    test_the_order_of_commits_does_not_matter = None


def test_a_bucket_or_store_that_is_not_there_is_told(server):
    for call in (open_store, verify, gc, write):
        with pytest.raises(BucketError, match=r"there is no bucket 'nowhere' \(of s3://nowhere/s\); make it, or check"):
            call("s3://nowhere/s")
    for call in (open_store, verify, gc):
        with pytest.raises(StoreError, match=r"s3://lab/nothing is not a featcache store"):
            call("s3://lab/nothing")


def write(url):
    write_store(url, StorePlan(records={"pooled": make_record((6,))}, num_videos=2))


@pytest.mark.slow
class TestZarr(OnBucket, StoreConformance):
    file_format = "zarr"


@pytest.mark.slow
class TestHdf5(OnBucket, StoreConformance):
    file_format = "hdf5"


def test_stores_are_copied_into_buckets_and_out_of_them(server, tmp_path, monkeypatch):
    monkeypatch.setenv("FEATCACHE_CACHE", str(tmp_path / "cache"))
    here, there, back = str(tmp_path / "s"), "s3://lab/copied/store", str(tmp_path / "back")
    extend(tmp_path / "s", [video(0), video(1)])
    extend(tmp_path / "s", [video(2)], failing={("map", "v0002"): "timeout"})
    say(tmp_path / "s", ("v0001", {"id": "b"}))
    merge(MergeSettings(stores=(here,), out=there))
    assert merge(MergeSettings(stores=(here,), out=there)).rows_written == 0
    convert(ConvertSettings(store=there, to="hdf5", out=back))
    for one, other in ((here, there), (there, back)):
        assert not diff(DiffSettings(store=one, other_store=other)).kinds
    with pytest.raises(ConfigError, match="lie in each other"):
        merge(MergeSettings(stores=(there,), out=f"{there}/inside"))
