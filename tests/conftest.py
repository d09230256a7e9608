"""How the suite is spread over workers, and what tests found out about sizes, shown at the end of a run."""

from collections.abc import Callable

import pytest

_NAME = "said"
_HOUSES = ("attacks", "e2e", "faults", "integration")
"""Folders whose modules share a running hub: a module goes to one worker, so that it is started once."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.parent.name
        if folder in _HOUSES and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(f"{folder}/{item.path.stem}"))


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line for the end of the run."""

    def record(line: str) -> None:
        print(line)
        record_property(_NAME, line)

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [value for report in reports for name, value in report.user_properties if name == _NAME]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(str(line))
