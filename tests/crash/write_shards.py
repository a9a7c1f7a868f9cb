"""A process that commits the shards of a store in an order of its own, with claims or in everybody's way."""

import sys

from featcache.errors import FeatcacheError
from featcache.recipes import SamplingRecipe
from featcache.seeding import rng_for
from featcache.store.writer import StoreWriter
from featcache.testing.stores import StorePlan, add_generation, commit, make_recipe, make_record

RECORDS = {"pooled": make_record((6,))}


def plan_of(num_shards: int, *, failing: int | None = None) -> StorePlan:
    """Two videos per shard; one in ten fails, or those that a writer of this number fails at."""
    numbers = range(0, 2 * num_shards, 10) if failing is None else range(failing, 2 * num_shards, 7)
    return StorePlan(records=RECORDS, num_videos=2 * num_shards, failing=dict.fromkeys(numbers, "timeout"))


def write(place: str, *, num_shards: int, writer_number: int, claims: bool, differs: bool) -> None:
    plan = plan_of(num_shards, failing=writer_number if differs else None)
    with StoreWriter.open(place, sampling=SamplingRecipe()) as writer:
        for name, record in RECORDS.items():
            writer.declare_feature(name, make_recipe(precision=record.dtype), record)
        with writer.planning_lock():
            if not writer.generations():
                add_generation(writer, plan)
        generation = writer.generations()[0]
        done = writer.committed(generation, "pooled")
        for shard in rng_for(writer_number, "order").permutation(num_shards).tolist():
            if shard in done:
                continue
            if not claims:
                commit(writer, generation, shard, plan)
                continue
            with writer.shard_lock(generation, shard) as claimed:
                if claimed and not writer.is_committed(generation, shard, feature="pooled"):
                    commit(writer, generation, shard, plan)
        writer.complete(generation, "pooled")


def main() -> int:
    place, num_shards, number, claims, differs = sys.argv[1:]
    try:
        write(
            place,
            num_shards=int(num_shards),
            writer_number=int(number),
            claims=claims == "claims",
            differs=differs == "differs",
        )
    except FeatcacheError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
