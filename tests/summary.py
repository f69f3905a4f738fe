"""What a run says at its end: where its time went, by file with imports apart, and what was skipped, once, in words."""

import time
from collections import Counter

import pytest

SHOWN = 8  # files


class Summary:
    """Registered in every process; what the workers of pytest-xdist measure while they collect reaches the first one."""

    def __init__(self) -> None:
        self.imports: Counter[str] = Counter()  # seconds, by file
        self.tests: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()  # tests, by reason

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        since = time.perf_counter()
        report = yield
        if isinstance(collector, pytest.Module):  # its own tests' modules alone: a package's are counted one by one
            self.imports[collector.nodeid] += time.perf_counter() - since
        return report

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["imports"] = dict(self.imports)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        for file, seconds in getattr(node, "workeroutput", {}).get("imports", {}).items():
            self.imports[file] = max(self.imports[file], seconds)  # the workers import at the same time

    def pytest_runtest_logreport(self, report):
        self.tests[report.nodeid.split("::")[0]] += report.duration
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(self, terminalreporter):
        write = terminalreporter.write_line
        total = Counter(self.tests) + self.imports
        if sum(total.values()) > 60:
            terminalreporter.section("slowest files")
            write(f"{'tests, s':>9} {'imports, s':>11}")
            for file, _ in total.most_common(SHOWN):
                write(f"{self.tests[file]:9.0f} {self.imports[file]:11.0f}  {file}")
            write(f"{sum(self.tests.values()):9.0f} {sum(self.imports.values()):11.0f}  all, each counted by itself")
        for reason, count in self.skipped.items():
            write(f"not run: {count} test{'s' * (count > 1)}: {reason}")
