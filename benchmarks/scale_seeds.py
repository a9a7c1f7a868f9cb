"""The cost of several seeds of SCALE as one stack (`batched_seeds`) and one after another.

Measures steps of `train scale` on vectors in memory in its own loop: one seed alone, times the number of seeds, against
one step of all seeds. Both sides take turns, `--repeats` times; the ratio is the median of pairs. With the published
heads a step is mostly matrix products; `--head-hidden 256` shows a small model, in which overhead counts:

    uv run python benchmarks/scale_seeds.py
    uv run python benchmarks/scale_seeds.py --head-hidden 256 --seeds 2 4 8
"""

from statistics import median
from typing import Any

import torch
from common import parser, report
from scale_steps import made_up_sets, scale_settings, seconds_a_step_of_the_loop

from featcache.loaders.clip_sets import placed
from featcache.methods.scale.batched import StackObjective
from featcache.methods.scale.objective import ScaleObjective
from featcache.methods.scale.run import build_module


def main() -> None:
    """Time both ways for each number of seeds."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[3], help="numbers of seeds")
    options.add_argument("--batch", type=int, default=64, help="videos per step")
    options.add_argument("--width", type=int, default=768, help="channels per clip")
    options.add_argument("--head-hidden", type=int, help="hidden width of all heads; else the published ones")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    settings = scale_settings(
        batch=args.batch, device=args.device, bfloat16=args.precision == "bfloat16", threads=args.threads
    )
    if args.head_hidden is not None:
        hidden = {"hidden": args.head_hidden, "target_hidden": args.head_hidden}
        settings = settings.model_copy(update={"heads": settings.heads.model_copy(update=hidden)})
    sets = placed(made_up_sets(4 * args.batch, width=args.width), storage="auto", device=torch.device(args.device))

    def objective(seed: int) -> ScaleObjective:
        return ScaleObjective(
            sets,
            settings.loss,
            module=build_module(settings, width_in=args.width, seed=seed).to(args.device),
            clips_per_set=settings.clips_per_set,
            batch_size=args.batch,
            seed=seed,
        )

    def seconds(task: ScaleObjective | StackObjective) -> float:
        return seconds_a_step_of_the_loop(task, settings, device=args.device, budget_seconds=args.seconds)

    rows: list[dict[str, Any]] = []
    for number in args.seeds:
        pairs = [
            (number * seconds(objective(0)), seconds(StackObjective({seed: objective(seed) for seed in range(number)})))
            for _ in range(args.repeats)
        ]
        rows.append(
            {
                "seeds": number,
                "ms one after another": 1000 * median([alone for alone, _ in pairs]),
                "ms as one": 1000 * median([stack for _, stack in pairs]),
                "times faster": median([alone / stack for alone, stack in pairs]),
            }
        )
    where = args.device if args.device != "cpu" else f"{args.threads} threads"
    notes = [f"a step of {args.batch} videos x 2 x 8 clips per seed, {args.precision}, {where}; {args.repeats} pairs"]
    report("several seeds of SCALE", rows, as_json=args.json, notes=notes)


if __name__ == "__main__":
    main()
