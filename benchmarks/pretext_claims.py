"""Claims of the benchmark of pretext tasks, tested on the numbers that the paper prints and on those of own runs.

Each claim gets the p of an exact permutation test, and where pairs are compared that of the sign test. `--runs` names
the folder that `featcache reproduce pretext …` fills; tables that are not there are named with the claims they lack.
"""

import argparse
import json
from pathlib import Path

from featcache.cli.console import print_result
from featcache.report.claims import claims_of, measured_numbers, printed_numbers
from featcache.shipped import find_config

PRINTED = Path("configs/published/pretext.csv")


def main() -> None:
    """Print what the numbers say of each claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of own tables, e.g. runs/pretext_benchmark")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    found = [claims_of(printed_numbers(find_config(PRINTED)), source="printed numbers")]
    if args.runs is not None:
        found.append(claims_of(measured_numbers(args.runs), source=f"own runs in {args.runs}"))
    if args.json:
        print(json.dumps([each.to_dict() for each in found], indent=2))
        return
    for each in found:
        print_result(each)


if __name__ == "__main__":
    main()
