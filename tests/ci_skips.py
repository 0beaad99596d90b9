"""A plugin of scripts/test: in CI (variable CI is set), a test that is skipped makes the run fail.

A skipped test proves nothing, and CI has everything that tests need, except GPUs: tests marked
`gpu` may be skipped.
"""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


def _note(report: pytest.CollectReport | pytest.TestReport) -> None:
    excused = "gpu" in getattr(report, "keywords", ()) or hasattr(report, "wasxfail")
    if report.skipped and not excused:
        _skipped.append(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("CI"):
        terminalreporter.section("skipped, which CI does not allow", red=True)
        for name in _skipped:
            terminalreporter.line(name)
