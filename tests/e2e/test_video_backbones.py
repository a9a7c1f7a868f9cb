"""Two video backbones of libraries over real clips in one command. Needs FEATCACHE_SHARED."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import featcache

pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.timeout(1800)]
SHAPES = {"r3d_18-layer4-mean": (512,), "videomae-b-norm-mean": (768,)}


def test_one_pass_fills_both_arrays(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    backbones = [word for name in ("r3d_18", "videomae-b") for word in ("-b", name, "-w", "random")]
    command = [
        "extract",
        shared / "data" / "videos",
        *backbones,
        "--clips",
        1,
        "--out",
        out,
        "--device",
        "cpu",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "featcache", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["videos_ok"], result["videos_failed"]) == (17, 0)

    store = featcache.open(out)
    assert (store.sampling.num_frames, store.sampling.frame_stride) == (16, 2)
    video = store.video_ids()[0]
    encoded = featcache.encoder(out, device="cpu")(shared / "data" / "videos" / video, video_id=video)
    for name, shape in SHAPES.items():
        feature = store.feature(name)
        values = feature.gather(np.arange(feature.num_rows))
        assert values.shape == (17, *shape)
        assert np.isfinite(values.astype(np.float32)).all()
        assert len(np.unique(values.astype(np.float32), axis=0)) == 17, "two videos have one feature"
        np.testing.assert_array_equal(encoded.features[name], feature.video(video))
