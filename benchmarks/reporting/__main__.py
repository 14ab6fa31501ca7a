"""From committed results to pages: tables, rows and pictures of what was measured.

    python -m benchmarks.reporting write                    all pages with marks: README.md, docs/measured.md and others
    python -m benchmarks.reporting check                    fail where a page is not what `write` writes
    python -m benchmarks.reporting show NAME                print one text, such as ranks, of --results DIR
    python -m benchmarks.reporting tables FILE...           print the tables of pytest-benchmark's files of one machine
    python -m benchmarks.reporting keep FILE... --as RESULT write their figures, for benchmarks/results/
    python -m benchmarks.reporting draw FILE... --as PICTURE
    python -m benchmarks.reporting gpu DIR                  print the page on what on_gpu.sh did
    python -m benchmarks.reporting shapes FILE --as TABLE   the table of block shapes by what a GPU measured

Measuring scripts write JSON. `keep` merges that of pytest-benchmark, and leaves out what names a host; results are
committed under benchmarks/results/ (cpu.json, graphs.json, gpu_<device>.json, peers.json, growth.json, ranks.json,
campaigns.json, model.json), and tables of `fastsaddle compare` under benchmarks/reproduction/. Pages show nothing else.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.reporting.curated import read, write
from benchmarks.reporting.gpu_page import gpu_page
from benchmarks.reporting.render import render
from benchmarks.reporting.results import Results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reporting",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("write", "check", "show"):
        command = commands.add_parser(name)
        if name == "show":
            command.add_argument("name")
        else:
            command.add_argument("pages", nargs="*", type=Path, help="default: all with marks")
        command.add_argument("--results", type=Path, default=Results.folder, help="folder of JSON")
    for name in ("tables", "keep", "draw", "shapes"):
        command = commands.add_parser(name)
        command.add_argument("files", nargs=1 if name == "shapes" else "+", type=Path)
        if name != "tables":
            command.add_argument("--as", dest="target", type=Path, required=True, metavar="FILE")
    commands.add_parser("gpu").add_argument("folder", type=Path)
    try:
        carry_out(parser.parse_args(arguments))
    except (OSError, ValueError) as error:
        sys.exit(f"reporting: error: {error}")


def carry_out(asked: argparse.Namespace) -> None:
    match asked.command:
        case "write" | "check":
            renew(asked.pages, Results(asked.results), is_check=asked.command == "check")
        case "show":
            from benchmarks.reporting.blocks import BLOCKS

            if asked.name not in BLOCKS:
                raise ValueError(f"NAME must be one of {', '.join(BLOCKS)}, got {asked.name!r}")
            print(BLOCKS[asked.name](Results(asked.results)))
        case "tables":
            print(render(read(asked.files)))
        case "keep":
            write(read(asked.files), asked.target)
        case "draw":
            # needs matplotlib, which a machine that only measures may lack
            from benchmarks.reporting.bandwidth_picture import draw

            draw(read(asked.files), asked.target)
        case "gpu":
            print(gpu_page(asked.folder))
        case "shapes":
            from benchmarks.reporting.shapes import write_table

            write_table(*asked.files, asked.target)


def renew(paths: list[Path], results: Results, is_check: bool) -> None:
    """Write pages, or only look at them.

    Raises:
        ValueError: a page that is looked at differs.
    """
    from benchmarks.reporting.pages import pages, rewritten

    for page in paths or pages():
        before = page.read_text()
        after = rewritten(before, results)
        if before != after and is_check:
            raise ValueError(
                f"{page} differs from {results.folder}: python -m benchmarks.reporting write"
            )
        if before != after:
            page.write_text(after)


if __name__ == "__main__":
    main()
