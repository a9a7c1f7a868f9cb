"""The end-to-end baseline: what it draws, its loss and network, and that a killed run goes on as if it had not been."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from featcache.backbones import build_backbone
from featcache.errors import ManifestError
from featcache.loaders.fresh import fresh_look
from featcache.methods.advise.plan import plan_r3d50
from featcache.methods.advise.playback import playback_objective, rate_loss
from featcache.methods.advise.run import SLOW_R50, open_pixels, pretrain_r3d50
from featcache.methods.advise.settings import PretextClipSettings, R3d50Settings
from featcache.networks.counting import count_macs, count_parameters
from featcache.networks.r3d50 import R3d50
from featcache.testing.videos import sequential_frames, write_video
from featcache.training.loop import trained_state
from featcache.training.settings import TrainingSettings
from tests.methods.advise.helpers import counting_bank
from tests.training.kept_files import check_kept

NUM_FRAMES = (12, 9, 16, 11)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    for number, num_frames in enumerate(NUM_FRAMES):
        write_video(folder / f"{number}.mp4", num_frames=num_frames)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def settings(videos, out, **changes):
    defaults = R3d50Settings.model_fields
    return R3d50Settings(
        source=str(videos),
        size=32,
        width=4,
        head_hidden=8,
        clips=defaults["clips"].default.model_copy(update={"num_frames": 4, "num_clips": 2}),
        training=TrainingSettings(
            epochs=3,
            batch_size=2,
            device="cpu",
            threads=1,
            tensorboard=False,
            checkpoint_seconds=0,
            keep_epochs=(1, 3),
        ),
        out=str(out),
        **changes,
    )


def test_clips_are_the_frames_of_their_view(videos, tmp_path):
    source, num_left_out = open_pixels(settings(videos, tmp_path))
    assert source.video_ids == ("0.mp4", "1.mp4", "2.mp4", "3.mp4")
    assert num_left_out == 1, "the broken one"
    assert source.num_source_frames.tolist() == list(NUM_FRAMES)
    draw = next(draw for draw in range(100) if not fresh_look("0.mp4", draw, height=64, width=96).color)
    clips = source.clips(np.array([2, 0, 2]), np.array([[5, 6, 5], [0, 4, 8], [9, 9, 1]]), [3, draw, 4]).joined
    assert clips.shape == (3, 3, 32, 32, 3)
    assert torch.equal(clips[0, 0], clips[0, 2])
    box = fresh_look("0.mp4", draw, height=64, width=96).box
    part = torch.from_numpy(sequential_frames(videos / "0.mp4")[4])[None, box.y0 : box.y1, box.x0 : box.x1]
    plain = functional.interpolate(
        part.permute(0, 3, 1, 2), (32, 32), mode="bilinear", antialias=True, align_corners=False
    )
    assert torch.equal(clips[1, 1], plain[0].permute(1, 2, 0))


def test_a_plan_says_what_a_run_takes_and_writes_nothing(videos, tmp_path):
    given = settings(videos, tmp_path / "run")
    plan = plan_r3d50(given)
    assert not (tmp_path / "run").exists()
    assert (plan.num_train, plan.num_left_out, plan.num_clips, plan.clip) == (5, 0, 2, (4, 32, 32))  # listed, unopened
    assert (plan.num_steps, plan.num_trained) == (3 * 2, count_parameters(R3d50(num_classes=4, width=4, head_hidden=8)))
    found = plan.forecast
    assert (found.decoding.num_videos, found.decoding.num_failed, found.missing) == (4, 1, ())
    assert found.decoding.failure.startswith("'broken.mp4' (")
    network = R3d50(num_classes=4, width=4, head_hidden=8).eval()
    assert found.cost.operations == 2 * 3 * 2 * count_macs(network, torch.zeros(1, 4, 32, 32, 3))
    assert "clips of each: 2" in plan.summary().facts["train"]
    nowhere = plan_r3d50(settings(tmp_path / "nowhere", tmp_path / "run"))
    assert (nowhere.num_train, nowhere.forecast.decoding, len(nowhere.forecast.missing)) == (None, None, 1)


def test_a_killed_run_goes_on_with_the_same_bits(videos, tmp_path):
    straight = pretrain_r3d50(settings(videos, tmp_path / "straight"))

    def kill(stage, done, total, note="", num_failed=0):
        if stage == "seed 0" and done > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_r3d50(settings(videos, tmp_path / "killed"), on_stage=kill)
    assert trained_state(tmp_path / "killed" / "seed-0").step == 2
    resumed = pretrain_r3d50(settings(videos, tmp_path / "killed"))
    states = [trained_state(tmp_path / name / "seed-0") for name in ("straight", "killed")]
    assert states[0].step == states[1].step == 6
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert all(torch.equal(states[0].tensors[name], tensor) for name, tensor in states[1].tensors.items())
    assert (straight.num_videos, straight.num_left_out) == (4, 1)
    assert round(straight.cost["megaparameters"] * 1e6) == straight.num_parameters + straight.num_head_parameters
    assert straight.next_command is None  # no backbone is as narrow
    written = load_file(tmp_path / "straight" / "seed-0" / "backbone.safetensors")
    for name, tensor in states[0].weights_of("network").items():
        assert torch.equal(written[name], tensor), name
    assert resumed.seeds[0]["loss"] == straight.seeds[0]["loss"]
    check_kept(tmp_path / "straight/seed-0", tmp_path / "killed/seed-0", last=3, name="backbone.safetensors")


def test_what_it_trained_is_fine_tuned_and_extracted_as_the_slow_r50(tmp_path):
    """The file of the published width has the names and shapes of the backbone's own network."""
    with torch.device("meta"):
        network = R3d50(num_classes=4).network
    written = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in network.state_dict().items()}
    written[next(iter(written))].fill_(1.0)
    save_file(written, tmp_path / "backbone.safetensors")
    backbone = build_backbone(SLOW_R50, weights=str(tmp_path / "backbone.safetensors"))
    assert backbone.keys is not None
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, written[name]), name


def test_clips_start_anywhere_and_may_repeat_frames():
    bank = counting_bank(num_videos=4, num_frames=20)
    clips = PretextClipSettings(base_stride=1, starts="anywhere", num_clips=8, sequential=False)
    network = torch.nn.Linear(1, 4)
    objective = playback_objective(bank, np.arange(4), clips, module=network, batch_size=4, seed=0)
    maps = [objective.parts(epoch, 0)[0].maps.on("cpu") for epoch in range(20)]
    starts = {int(start) for each in maps for start in each[:, 0, 0, 0, 1].tolist()}
    assert starts == set(range(20))


def test_losses_of_the_rates():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1, 2, 2, 0])
    bce = PretextClipSettings(loss="bce", label_smoothing=0.0)
    targets = torch.eye(4)[labels]
    plain = -(targets * logits.sigmoid().log() + (1 - targets) * (-logits).sigmoid().log()).mean()
    assert torch.allclose(rate_loss(logits, labels, settings=bce), plain)
    smooth = PretextClipSettings(loss="bce", label_smoothing=0.2)
    wanted = functional.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.05)
    assert torch.allclose(rate_loss(logits, labels, settings=smooth), wanted)
    assert torch.allclose(
        rate_loss(logits, labels, settings=PretextClipSettings(label_smoothing=0.05)),
        functional.cross_entropy(logits, labels, label_smoothing=0.05),
    )


def test_the_network_has_the_size_of_the_papers():
    with torch.device("meta"):
        network = R3d50(num_classes=4).eval()
        clip = torch.empty(1, 8, 224, 224, 3)
    assert count_parameters(network.network) == 31_634_496
    assert 3 * count_macs(network, clip) == pytest.approx(125.3e9, rel=0.01), "Table 6 prints three forwards"


def test_a_folder_without_usable_videos_is_a_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ManifestError, match=r"none of 1 videos can be used, e\.g\. 'a.mp4'"):
        open_pixels(settings(tmp_path, tmp_path / "out"))
