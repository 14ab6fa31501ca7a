"""Tables and a picture of `pytest benchmarks/ --benchmark-only --benchmark-json=FILE`, and the README's part.

    python benchmarks/report.py FILE... [--keep RESULT] [--svg PICTURE] [--readme README.md]
    python benchmarks/report.py --check README.md

Files of one machine are merged. `--keep` writes their figures, to be committed under benchmarks/results/ as cpu.json or
gpu_<device>.json. The README's text between its marks comes from the committed files alone: `--readme` writes it,
`--check` fails where it differs. Without `--readme` and `--check` the tables are printed.
"""

import argparse
import sys
from pathlib import Path

from reporting.files import read, write
from reporting.render import render

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="pytest-benchmark's, or kept ones")
    parser.add_argument("--keep", type=Path, help="write the figures there, for benchmarks/results")
    parser.add_argument("--svg", type=Path, help="draw them there (.svg or .png)")
    parser.add_argument("--readme", type=Path, help="write the text between this file's marks")
    parser.add_argument(
        "--check", type=Path, help="fail where that text is not what --readme writes"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the committed files"
    )
    options = parser.parse_args()
    if not options.files and (options.keep or options.svg or not (options.readme or options.check)):
        parser.error("--keep, --svg and the tables need files")
    try:
        if options.files:
            report = read(options.files)
            if options.keep:
                write(report, options.keep)
            if options.svg:
                from reporting.picture import draw

                draw(report, options.svg)
            if not (options.readme or options.check):
                print(render(report))
        if options.readme:
            options.readme.write_text(rewritten(options.readme, options.results))
        if options.check and options.check.read_text() != rewritten(options.check, options.results):
            sys.exit(f"{options.check} differs from {options.results}: write it with --readme")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def rewritten(readme: Path, results: Path) -> str:
    """The file with the text between its marks made from the committed results.

    Raises:
        ValueError: not one of each mark, in order.
    """
    # needs tabulate, which a machine that only measures may lack
    from reporting.page import page

    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} must hold the marks {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n{page(results)}\n{END}{after}"


if __name__ == "__main__":
    main()
