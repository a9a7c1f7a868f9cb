"""``rho-byol-r50``: Slow R50 of rho-BYOL. The network is :mod:`featcache.networks.slow_r50`.

Layers are ``s2`` to ``s5``, without a class token; ``s5`` is [B, T, H/32, W/32, 2048], rounded up, and its mean is
SCALE's feature.
"""

from pathlib import Path

from featcache.backbones.base import Backbone, LayerOutput, WeightsCard

CARD = WeightsCard(
    source="PySlowFast, rho-BYOL with rho = 4 on Kinetics-400, 200 epochs, dl.fbaipublicfiles.com/pyslowfast/"
    "videomoco_models/BYOL_SlowR50_16x4_T4_epoch_00200.pyth",
    license="Apache-2.0 of the repository",
    paper="arXiv:2104.14558",
    file_name="BYOL_SlowR50_16x4_T4_epoch_00200.pyth",
    interpolation="bilinear",
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    num_frames=16,
    frame_stride=4,
)
CARDS = {"rho-byol-r50": CARD}
# The momentum branch is taken, as SCALE does; the online branch, every head and the training buffers are dropped.
_PREFIX = "backbone_hist."
_DROP = ("backbone.*", f"{_PREFIX}head.*", "*.ssl_128*", "knn_mem.*", "ptr", "iter", "queue*")


def build(name: str, weights: str) -> Backbone:
    """Build ``rho-byol-r50``.

    Args:
        name: Registry name.
        weights: ``default``, ``random`` or a path, also of a file that holds only the Slow R50.

    Raises:
        WeightsError: The weights cannot be found or do not fit.
    """
    from featcache.backbones.branches import load_branch, take_branch
    from featcache.backbones.weights import locate, read_state_dict, seeded_init
    from featcache.backbones.wrapped import WrappedBackbone
    from featcache.networks.slow_r50 import SlowR50

    path = locate(
        weights, backbone=name, stems=[Path(CARD.file_name).stem], origin=CARD.source, published=CARD.file_name
    )
    with seeded_init(name):
        network = SlowR50()
    keys = None
    if path is not None:
        state, dropped = take_branch(read_state_dict(path, nested_under=("model_state",)), prefix=_PREFIX, drop=_DROP)
        keys = load_branch(network, state, source=f"weights file {path} of {name}", dropped=dropped)
    return WrappedBackbone(
        network,
        name=name,
        card=CARD,
        layers=network.stages,
        run=lambda pixels, wanted: {
            layer: LayerOutput(map=x, cls=None) for layer, x in network.forward_stages(pixels, wanted).items()
        },
        keys=keys,
    )
