"""Who teaches and who is scored: folds keep groups together."""

import dataclasses

import pytest

from featcache.loaders.assignments import read_labelled
from featcache.loaders.settings import BankSettings
from featcache.store.reader import open_store
from featcache.testing import stores


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_never_split_a_group(tmp_path, monkeypatch, grouped):
    plain = stores.make_videos

    def make_videos(count, *, first=0, unusable=None):
        return [
            dataclasses.replace(
                video, split="", labels={**video.labels, **({"group": f"g{number // 4}"} if grouped else {})}
            )
            for number, video in enumerate(plain(count, first=first, unusable=unusable))
        ]

    monkeypatch.setattr(stores, "make_videos", make_videos)
    stores.write_store(tmp_path / "store", stores.StorePlan(records={"a": stores.make_record((8,))}, num_videos=24))
    store = open_store(tmp_path / "store")

    class Bank:
        video_ids = tuple(store.videos)

    data = read_labelled(BankSettings(store="s"), Bank(), store=store, label="label")
    assigned, protocol = data.assignments()
    assert sorted(video for each in assigned for video in each.tests["all"]) == list(range(24))
    groups = data.groups
    if not grouped:
        assert (groups, protocol) == (None, "5 folds over videos")
        return
    assert protocol == "5 folds over groups of column 'group'"
    for each in assigned:
        assert not set(groups[each.train]) & set(groups[each.tests["all"]])
