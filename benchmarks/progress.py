"""What a run of the benchmarks prints: a line for each case that is done, and the table of bandwidths at the end."""

import statistics
import time
from typing import Any

import pytest

from benchmarks.reporting.rows import by_speed, engine, milliseconds, named

# the plugin's own object, which holds what was timed
SESSION = "_benchmarksession"


class Progress:
    """Prints `12/160  1:05  op[gossip_step-native-16x1000000]: 4.34 ms, 95 % of copy` in place of a dot."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.begin, self.done, self.total = time.monotonic(), 0, 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.total = len(session.items)
        reporter = self._reporter
        if reporter is not None:
            # the lines name their cases: no line for each file
            reporter.showfspath = False

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        is_passed = report.passed and report.when == "call"
        # counted, without a letter
        return (report.outcome, "", "") if is_passed or report.skipped else None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.done += 1
        reporter, figures = self._reporter, self._figures(nodeid)
        if reporter is None or not figures:
            return
        minutes, seconds = divmod(int(time.monotonic() - self.begin), 60)
        place = f"{self.done:>{len(str(self.total))}}/{self.total}  {minutes}:{seconds:02}"
        case = nodeid.rpartition("::")[2].removeprefix("test_")
        reporter.write_line(f"{place}  {case}: {figures}")

    # below the wide table of pytest-benchmark
    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        infos = [one.extra_info for one in timed(self.config)]
        lines = [*bandwidths([i for i in infos if "percent_of_copy" in i]), *taxes(infos)]
        if lines:
            terminalreporter.section("bandwidth of ops and steps, and the cost of stacking")
        for line in lines:
            terminalreporter.write_line(line)

    @property
    def _reporter(self) -> Any:
        return self.config.pluginmanager.get_plugin("terminalreporter")

    def _figures(self, nodeid: str) -> str:
        """Time of the case that is done, and its percent of the copy's bandwidth; nothing where it was not timed."""
        last = next(reversed(timed(self.config)), None)
        if last is None or last.fullname != nodeid:
            return ""
        repeats = last.extra_info.get("repeats", 1)
        said = f"{1e3 * last.stats.median / repeats:.4g} ms"
        percent = last.extra_info.get("percent_of_copy")
        return said if percent is None else f"{said}, {percentage(percent)} % of copy"


def timed(config: pytest.Config) -> list[Any]:
    """What pytest-benchmark has timed so far, in order; cases that failed are not among it."""
    session = getattr(config, SESSION, None)
    found = () if session is None else session.benchmarks
    return [one for one in found if one.stats.data and not one.has_error]


def bandwidths(infos: list[dict[str, Any]]) -> list[str]:
    """A line for each thing and implementation, the fastest first: time, bandwidth, and percent of the copy's."""
    if not infos:
        return []
    copy = statistics.median(info["copy_gb_per_s"] for info in infos)
    lines = [
        f"copy_ {copy:.1f} GB/s (read + write, median of the run); percentages are of the copy timed beside each row",
        f"{'what':32} {'implementation':20} {'agents x parameters':>22} {'ms':>10} {'GB/s':>8} {'% of copy':>10}",
    ]
    for info in by_speed(infos):
        size = f"{info['agents']:,} x {info['dim']:,}"
        lines.append(
            f"{named(info):32} {info['implementation']:20} {size:>22} {milliseconds(info):>10.4g} "
            f"{info['gb_per_s']:>8.1f} {percentage(info['percent_of_copy']):>10}"
        )
    return lines


def percentage(value: float) -> str:
    """Whole percent, with one decimal below 10."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def taxes(infos: list[dict[str, Any]]) -> list[str]:
    """A line for each network and engine: gradients of all agents over those of one model on all samples."""
    return [
        f"stacking tax, {info['network']}, {info['agents']:,} agents, {engine(info)}: {info['stacking_tax']:.2f}"
        for info in infos
        if "stacking_tax" in info
    ]
