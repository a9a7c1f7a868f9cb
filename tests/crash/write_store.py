"""The process that the crash tests kill: writes or resumes a small store through the public writer."""

import sys
from pathlib import Path

from featcache.errors import FeatcacheError
from featcache.testing.stores import StorePlan, make_record, write_store

PLANS = (
    StorePlan(
        records={"pooled": make_record((6,)), "map": make_record((2, 2, 3), "int8")},
        num_videos=7,
        rows_per_video=(3, 5),
        shard_rows=8,
        unusable={2: "undecodable"},
        failing={4: "timeout"},
    ),
    StorePlan(
        records={"pooled": make_record((6,)), "map": make_record((2, 2, 3), "int8")}, num_videos=2, first_video=7
    ),
)


def main() -> int:
    try:
        write_store(Path(sys.argv[1]), *PLANS, file_format=sys.argv[2])
    except FeatcacheError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
