"""Sets the statistics of synthetic rain beside those of real events, as a markdown table.

python -m ldcast.tools.compare_rain EVENT [EVENT ...]
"""

import argparse
import sys

from tqdm import tqdm

from ldcast.data.readers.specs import read_event
from ldcast.data.statistics import event_statistics, markdown_table
from ldcast.data.synthetic import synthetic_event
from ldcast.errors import InputError, run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", nargs="+", metavar="EVENT", help="event files of real rain")
    parser.add_argument("--seeds", type=int, default=8, help="of synthetic events (%(default)s)")
    flags = parser.parse_args(argv)
    if flags.seeds < 1:
        raise InputError(f"--seeds {flags.seeds}: expected at least 1; say --seeds 8")
    events = [read_event(path) for path in flags.events]
    groups = [(event.name, [event_statistics(event)]) for event in events]
    seeds = tqdm(range(flags.seeds), desc="synthetic events", disable=None)
    synthetic = [event_statistics(synthetic_event(seed)) for seed in seeds]
    groups += [(f"synthetic:{seed}", [of_seed]) for seed, of_seed in enumerate(synthetic)]
    groups.append((f"synthetic, median (range) of {flags.seeds}", synthetic))
    print(markdown_table(groups))


if __name__ == "__main__":
    sys.exit(run_script(main))
