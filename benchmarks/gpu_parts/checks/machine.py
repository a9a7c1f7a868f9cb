"""Automatic choices, communication between processes, and figures."""

import importlib.util
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from featcache.backbones import build_backbone
from featcache.evaluation.run import run_probe
from featcache.extract.encode import float32_products
from featcache.extract.provenance import provenance
from featcache.machine import resolve_device, set_matmul
from featcache.networks.tmm import Tmm
from featcache.testing.probes import separable_data
from featcache.training.runs import prepare_torch
from featcache.training.settings import TrainingSettings
from featcache.training.shared_norm import share_batch_norms
from featcache.training.world import World
from gpu_parts.bench import SkippedError
from gpu_parts.checks.comparing import FLOAT32, Check, distance, within
from gpu_parts.checks.training import TMM


def chosen(device: str, folder: Path) -> str:
    """The device that ``auto`` gives in extraction, training and probes."""
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == wanted, f"auto is {resolve_device('auto')}"
    assert prepare_torch(TrainingSettings(device="auto", threads=1)).type == wanted
    found = run_probe("knn", separable_data()).device
    assert found == wanted, f"a probe chose {found}"
    return f"auto is {wanted}"


def products(device: str, folder: Path) -> str:
    """TF32 is off by default; if it is chosen, its rounding is visible, and it is recorded."""
    assert provenance(device, matmul="high")["matmul"] == "high"
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    images = torch.randn(2, 32, 24, 24, generator=generator, dtype=torch.float64)
    kernel = torch.randn(32, 32, 3, 3, generator=generator, dtype=torch.float64)
    wanted = left @ right, nn.functional.conv2d(images, kernel)
    apart = {}
    for matmul in ("highest", "high"):
        with float32_products(matmul):
            mine = [each.float().to(device) for each in (left, right, images, kernel)]
            found = mine[0] @ mine[1], nn.functional.conv2d(mine[2], mine[3])
        apart[matmul] = [distance(one, other) for one, other in zip(found, wanted, strict=True)]
    assert apart["highest"][0] < 3e-6, f"a product is {apart['highest'][0]:.1g} from float64"
    assert apart["highest"][1] < 2e-5, f"a convolution is {apart['highest'][1]:.1g} from float64"  # some are transforms
    if device != "cpu" and torch.cuda.get_device_capability(device)[0] >= 8:
        assert apart["high"][0] > 3e-5, f"high is {apart['high'][0]:.1g} from float64, which is no TF32"
    set_matmul("highest")
    return f"product and convolution: highest {max(apart['highest']):.0e}, high {max(apart['high']):.0e} from float64"


def processes(device: str, folder: Path) -> str:
    """The operations of a shared run in a group of one: NCCL on a GPU, and gloo for tensors on the CPU."""
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.FileStore(str(folder / "meeting"), 1), rank=0, world_size=1)
    try:
        there = torch.arange(4.0, device=device)
        dist.all_reduce(there)
        every = [torch.empty_like(there)]
        dist.all_gather(every, there)
        flag = torch.tensor(1)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        made = ["made"]
        dist.broadcast_object_list(made, device=torch.device("cpu"))
        assert every[0].tolist() == [0, 1, 2, 3]
        assert (bool(flag), made) == (True, ["made"])
        plain = nn.Linear(4, 2).to(device)
        shared = DistributedDataParallel(nn.Linear(4, 2).to(device))
        shared.module.load_state_dict(plain.state_dict())
        for module in (plain, shared):
            module(there).square().sum().backward()
        for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            assert torch.allclose(mine.grad, theirs.grad), "gradients of a group of one differ"
        apart = _norms_apart(device)
    finally:
        dist.destroy_process_group()
    return f"{backend}, {within(apart, FLOAT32, 'a shared BatchNorm')}"


def _norms_apart(device: str) -> float:
    """Distance of a BatchNorm over the processes of a group of one from torch's, with its gradients and statistics."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(4, 6, 2, 5, 5, generator=generator)
    found = []
    for is_shared in (False, True):
        norm = nn.BatchNorm3d(6).to(device)
        if is_shared:
            share_batch_norms(norm, World(size=2))
        mine = x.to(device).requires_grad_()
        y = norm(mine)
        y.sigmoid().square().sum().backward()
        tensors = [y, mine.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
        found.append([each for each in tensors if each is not None])
    return max(distance(one.detach(), other.detach()) for one, other in zip(*found, strict=True))


def pictures(device: str, folder: Path) -> str:
    """Contents of the figures: attention of a class token, and maps inside a temporal module."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SkippedError("matplotlib is not installed")
    from featcache.report.activation_maps import branch_maps
    from featcache.report.attention_maps import class_attention

    generator = torch.Generator().manual_seed(0)
    backbone = build_backbone("svt-tiny", weights="random")
    clip = torch.randn(2, 3, 64, 64, generator=generator)
    maps = torch.randn(4, 5, 5, 16, generator=generator)
    module = Tmm(TMM, width_in=16, grid=5).eval()
    with float32_products("highest"):
        wanted = class_attention(backbone, clip), branch_maps(module, maps)
        found = class_attention(backbone.to(device), clip), branch_maps(module.to(device), maps)
    assert {each.device.type for each in found} == {"cpu"}, "pictures are drawn on the CPU"
    return within(max(distance(one, other) for one, other in zip(found, wanted, strict=True)), FLOAT32, "heat")


CHECKS: dict[str, Check] = {
    "--device auto": chosen,
    "matmul highest and high": products,
    "a group of one process": processes,
    "figures": pictures,
}
