"""Tables and a picture of `pytest benchmarks/ --benchmark-only --benchmark-json=FILE`, and the pages that show them.

    python benchmarks/report.py FILE... [--keep RESULT] [--svg PICTURE]
    python benchmarks/report.py --page docs/measured.md --readme README.md
    python benchmarks/report.py --check docs/measured.md README.md
    python benchmarks/report.py --gpu DIR

Files of one machine are merged. `--keep` writes their figures, to be committed under benchmarks/results/ as cpu.json or
gpu_<device>.json. A page's text between its marks comes from the committed files alone: `--page` writes all tables,
`--readme` the README's few rows, and `--check` fails where either differs. `--gpu` prints one page on the folder that
on_gpu.sh wrote. Without these the tables are printed.
"""

import argparse
import os
import sys
from pathlib import Path

from reporting.files import read, write
from reporting.gpu_page import gpu_page
from reporting.render import render

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
# the README's
FEW, FEW_END = "<!-- figures: begin -->", "<!-- figures: end -->"
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="pytest-benchmark's, or kept ones")
    parser.add_argument("--keep", type=Path, help="write the figures there, for benchmarks/results")
    parser.add_argument("--svg", type=Path, help="draw them there (.svg or .png)")
    parser.add_argument("--page", type=Path, help="write all tables between this file's marks")
    parser.add_argument("--readme", type=Path, help="write a few rows between this file's marks")
    parser.add_argument(
        "--check", type=Path, nargs="+", help="fail where a page is not what the two write"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the committed files"
    )
    parser.add_argument("--gpu", type=Path, help="print the page of on_gpu.sh's folder")
    options = parser.parse_args()
    pages = [page for page in (options.page, options.readme) if page]
    if not options.files and (
        options.keep or options.svg or not (pages or options.check or options.gpu)
    ):
        parser.error("--keep, --svg and the tables need files")
    try:
        if options.files:
            report = read(options.files)
            if options.keep:
                write(report, options.keep)
            if options.svg:
                from reporting.picture import draw

                draw(report, options.svg)
            if not (pages or options.check):
                print(render(report))
        if options.gpu:
            print(gpu_page(options.gpu))
        for page in pages:
            page.write_text(rewritten(page, options.results))
        for page in options.check or ():
            if page.read_text() != rewritten(page, options.results):
                sys.exit(f"{page} differs from {options.results}: write it with --page or --readme")
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def rewritten(file: Path, results: Path) -> str:
    """The file with the text between its marks made from the committed results.

    Raises:
        ValueError: not one of each mark, in order.
    """
    # needs tabulate, which a machine that only measures may lack
    from reporting.page import few, page

    text = file.read_text()
    first, last, make = (FEW, FEW_END, few) if FEW in text else (BEGIN, END, page)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"{file} must hold the marks {first} and {last}, in this order")
    link = Path(os.path.relpath(results.resolve(), file.resolve().parent)).as_posix()
    return f"{before}{first}\n{make(results, link)}\n{last}{after}"


if __name__ == "__main__":
    main()
