"""What the tests cost, in CPU-seconds, against what tests/README.md allows: a pytest plugin.

CPU-seconds (of the worker and of the processes that a test started and waited for), because wall time says as
much about what else the machine does. `--budget` prints the cost of each folder beside its budget and the twenty
most expensive tests, and fails the run where the total is half again above the table's: processors differ by that
much, and a budget that every slower machine breaks says nothing.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).with_name("README.md")
MOST_EXPENSIVE = 20
TOTAL = "all"
SLOWEST_PROCESSOR = 1.5  # times the CPU-seconds of the one that the table is of


def budgets(text: str) -> dict[str, float]:
    """Folder → CPU-seconds, from rows like "| trainer | 60 |"; the row `all` is the total."""
    return {
        name: float(seconds) for name, seconds in re.findall(r"^\| `?(\w+)`? \| (\d+) \|", text, re.MULTILINE)
    }


def folder(nodeid: str) -> str:
    """`tests/trainer/test_step.py::test_x` → `trainer`; of a test right in tests/, its module."""
    return Path(nodeid.partition("::")[0].removeprefix("tests/")).parts[0].removesuffix(".py")


def cpu_s() -> float:
    return sum(os.times()[:4])


class Costs:
    """Sums what the workers report; on a worker it measures."""

    def __init__(self, config: pytest.Config):
        self._enforce = config.getoption("budget")
        self.tests: Counter[str] = Counter()
        self._begun = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._begun = cpu_s()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report = yield
        now = cpu_s()
        report.cpu_s, self._begun = now - self._begun, now  # a phase: set-up, call or tear-down
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[report.nodeid] += getattr(report, "cpu_s", 0.0)

    def folders(self) -> Counter[str]:
        sums: Counter[str] = Counter()
        for test, seconds in self.tests.items():
            sums[folder(test)] += seconds
        return sums

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._enforce:
            return
        write, allowed = terminalreporter.write_line, budgets(README.read_text(encoding="utf-8"))
        terminalreporter.section("CPU-seconds")
        for name, seconds in self.folders().most_common():
            write(f"{seconds:8.1f} of {allowed.get(name, 0):5.0f}  {name}")
        write(f"{self.tests.total():8.1f} of {allowed[TOTAL]:5.0f}  {TOTAL}")
        terminalreporter.section(f"the {MOST_EXPENSIVE} most expensive tests")
        for test, seconds in self.tests.most_common(MOST_EXPENSIVE):
            write(f"{seconds:8.1f}  {test}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._enforce or hasattr(session.config, "workerinput"):
            return
        allowed = SLOWEST_PROCESSOR * budgets(README.read_text(encoding="utf-8"))[TOTAL]
        if session.exitstatus == pytest.ExitCode.OK and self.tests.total() > allowed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        action="store_true",
        help="print what tests cost; fail far above the total of tests/README.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs(config), "costs")
