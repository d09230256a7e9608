"""What tests found out about sizes, shown at the end of a run: also by workers, whose output nobody sees."""

from collections.abc import Callable

import pytest

from tests.support.postgres import database_url, databases, new_database_url  # noqa: F401 - fixtures
from tests.support.s3 import s3, s3_server  # noqa: F401 - fixtures; imported here alone, so that a server is shared

_NAME = "said"


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
