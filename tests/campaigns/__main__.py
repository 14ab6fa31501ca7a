"""Carry out campaigns: python -m tests.campaigns --keep benchmarks/results/campaigns.json"""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

NAMES = ("kills", "ranks", "trains", "signals", "files", "options", "sanitizers", "programs")
# seconds between two lines of progress
QUIET = 15.0


def main(arguments: list[str] | None = None) -> int:
    """Carry out what the command line asks for; 0 where nothing was found and all were tried, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns",
        description="Kills, ranks that fail, launches that are disturbed, signals, damaged files, random options, "
        "sanitizers and orders of Triton's programs, by random numbers from a seed.",
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument(
        "--count", type=int, help="how many kills, signals, ...; default: see there"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first attempt")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--minutes", type=float, default=9.5, help="bound of each campaign")
    parser.add_argument("--keep", type=Path, help="renew its rows in this file")
    asked = parser.parse_args(arguments)
    for name in ("count", "jobs", "minutes"):
        value = getattr(asked, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} must be > 0, got {value}")
    # before anything imports torch: threads do not survive the forks
    os.environ["OMP_NUM_THREADS"] = "1"
    is_clean = True
    for name in asked.only:
        is_clean = carry_out(name, asked) and is_clean
    return 0 if is_clean else 1


def carry_out(name: str, asked: argparse.Namespace) -> bool:
    """One campaign; whether it found nothing and came to its end."""
    from tests.campaigns import outcome, shares
    from tests.campaigns.campaign import Counts

    campaign = import_module(f"tests.campaigns.{name}").campaign
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    count = asked.count or campaign.count
    place = Path(tempfile.mkdtemp(prefix=f"fastsaddle-{name}-"))
    print(f"{name}: seed {seed} (repeat with --only {name} --seed {seed})", flush=True)
    begin = said = time.monotonic()

    def say(counts: Counts, total: Counts) -> None:
        nonlocal said
        for finding in counts.findings:
            print(f"  {finding}", flush=True)
        if time.monotonic() - said > QUIET:
            said = time.monotonic()
            print(f"  {outcome.progress(total, count, campaign.unit, said - begin)}", flush=True)

    counts = shares.carry_out(
        campaign,
        seed,
        count,
        place,
        first=asked.first,
        jobs=asked.jobs,
        minutes=asked.minutes,
        say=say,
    )
    row = outcome.row(name, campaign.unit, counts, seed, time.monotonic() - begin)
    print(f"{name}: {outcome.told(row)}", flush=True)
    if counts.findings:
        print(f"  the folders of what was found are kept in {place}", flush=True)
    else:
        shutil.rmtree(place)
    if counts.tried < count:
        print(f"  only {counts.tried} of {count} {campaign.unit} within {asked.minutes:g} minutes")
    if asked.keep:
        outcome.keep(asked.keep, row)
    return not counts.findings and counts.tried >= count


if __name__ == "__main__":
    sys.exit(main())
