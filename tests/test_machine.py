"""What a process may take of memory and cores, where cgroups limit it."""

import pytest

from featcache import machine


def cgroup(folder, *, limit, used, stat, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(stat)


V1, V2 = ("limit_in_bytes", "usage_in_bytes"), ("max", "current")


@pytest.mark.parametrize(
    ("own", "names", "root"), [("4:cpu:/x\n7:memory:/a/b\n", V1, "memory"), ("0::/a/b\n", V2, ".")], ids=["v1", "v2"]
)
def test_the_tightest_cgroup_counts_and_the_page_cache_is_free(tmp_path, monkeypatch, own, names, root):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    assert machine.free_memory() == 10_000
    (tmp_path / "own").write_text(own)
    assert machine.free_memory() == 10_000
    stat = "active_file 100\ninactive_file 200\nanon 5\n"
    cgroup(tmp_path / root / "a" / "b", limit="max", used=900, stat=stat, names=names)
    assert machine.free_memory() == 10_000, "no limit"
    cgroup(tmp_path / root / "a" / "b", limit=2000, used=900, stat=stat, names=names)
    assert machine.free_memory() == 1400
    cgroup(tmp_path / root / "a", limit=1000, used=950, stat=stat, names=names)
    assert machine.free_memory() == 350
    cgroup(tmp_path / root / "a", limit=1000, used=1400, stat="", names=names)
    assert machine.free_memory() == 0


@pytest.mark.parametrize(
    ("own", "root", "limit"),
    [
        ("4:cpuset:/x\n7:cpu,cpuacct:/a/b\n", "cpu", lambda quota: {"cfs_quota_us": quota, "cfs_period_us": 100_000}),
        ("0::/a/b\n", ".", lambda quota: {"max": f"{'max' if quota == -1 else quota} 100000"}),
    ],
    ids=["v1", "v2"],
)
def test_cores_are_those_whose_time_is_given(tmp_path, monkeypatch, own, root, limit):
    def give(folder, quota):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in limit(quota).items():
            (folder / f"cpu.{name}").write_text(f"{value}\n")

    monkeypatch.setattr("sys.platform", "other")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    assert machine.num_cores() == 64
    (tmp_path / "own").write_text(own)
    assert machine.num_cores() == 64
    give(tmp_path / root / "a" / "b", -1)
    assert machine.num_cores() == 64, "no limit"
    give(tmp_path / root / "a" / "b", 350_000)
    assert machine.num_cores() == 4
    give(tmp_path / root / "a", 50_000)
    assert machine.num_cores() == 1
    give(tmp_path / root / "a", 1_000_000)
    assert machine.num_cores() == 4
