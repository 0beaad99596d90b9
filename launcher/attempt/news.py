"""What the user is told of an attempt that has failed; loaded only then."""

from __future__ import annotations

import time

from launcher.attempt.node import NodeServices, shares_screen
from launcher.contract.error_file import encode_as_torch
from launcher.diagnosis.report import FailureReport, render
from launcher.nodes.restart import Verdict
from launcher.output.console import Console
from launcher.plan.node import NodeFacts
from launcher.system.files import write_in_place, write_whole


def announce(verdict: Verdict, facts: NodeFacts, node: NodeServices) -> Verdict:
    """Say how a failed attempt ended. The report comes at once, before slow workers have ended.

    Returns the verdict with the report as it is shown.
    """
    if verdict.action == "restart":
        if not node.stop_request.is_quiet:
            node.console.say(_explain_restart(verdict))
        return verdict
    report, console = verdict.report, node.console
    if report is None:
        return verdict
    if node.sampling:
        node.sampling.show_summary()  # the report is the last that is said
    if verdict.reporter:
        if not shares_screen(facts):
            console.say(f"{report.summary()} (the report is shown on {verdict.reporter})")
        return verdict
    report = report._replace(verdict=verdict.reason)
    if facts.paths is not None:
        write_whole(facts.paths.report, report.to_json())
    _tell_platform(report, facts, console)
    console.print_err(render(report, colour=console.colour))
    return verdict._replace(report=report)


def _explain_restart(verdict: Verdict) -> str:
    if verdict.report is None:
        return verdict.reason
    pause = f" in {verdict.delay_s:.1f} s" if verdict.delay_s else ""
    return f"{verdict.report.attempt_summary()}; starting all ranks again{pause}"


def _tell_platform(report: FailureReport, facts: NodeFacts, console: Console) -> None:
    """Leave the first cause to a platform that has set TORCHELASTIC_ERROR_FILE for the launcher."""
    path = facts.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    message = report.summary()
    if report.error_type:
        message = f"{report.error_type}: {report.error_message}"
    text = encode_as_torch(message, report.traceback, report.exit_code, time.time())
    problem = write_in_place(path, text)
    if problem:
        console.say(f"cannot write TORCHELASTIC_ERROR_FILE={path}: {problem}")
