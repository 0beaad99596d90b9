"""Why a host cannot take part, in words, and what to do about it. Pure."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

from launcher.engines.ssh_plan import SshPlan, make_command
from launcher.errors import RendezvousError
from launcher.named import NamedTuple

# Exit codes of a shell, and of python, when what they are to run is not there; and ssh's own.
_NOT_FOUND, _NO_FILE, _SSH = 127, 2, 255

# How the launcher's own errors begin, those of one on another host, too.
_OWN_WORDS = "launcher: error: "


class Obstacle(NamedTuple):
    """Why a host cannot take part: the rest of a sentence that begins with its name."""

    why: str
    hint: str


def explain_problem(plan: SshPlan, problem: str, detail: str) -> Obstacle:
    """Explain what a host has said of itself. detail: in the words of its system."""
    if problem == "folder":
        return Obstacle(
            f"has no folder {plan.folder} that could be entered: {detail}",
            "All hosts start in the same folder: share it between them, or make it there.",
        )
    return Obstacle(
        f"cannot serve port {plan.endpoint[1]}: {detail}",
        "Leave the port out, and a free one is found.",
    )


def explain_end(plan: SshPlan, index: int, status: int, words: str) -> Obstacle:
    """Explain why ssh has ended before the host has said anything.

    status: its exit code, or minus a signal's number. words: what it has written.
    """
    host = plan.hosts[index]
    if status == _NOT_FOUND or "ommand not found" in words:
        why = f"does not have this interpreter, {sys.executable}: {words}"
        return Obstacle(why, "The same environment must be at the same place on all hosts.")
    if status == _NO_FILE and "can't open file" in words:
        why = f"does not have the launcher where it is here: {words}"
        return Obstacle(why, "The same environment must be at the same place on all hosts.")
    if words.startswith(_OWN_WORDS):
        return Obstacle(f"cannot take part: {words.removeprefix(_OWN_WORDS)}", "")
    program = make_command(plan, index)[0]
    said = words or f"{program} has ended with {status}"
    if host.is_here:
        return Obstacle(f"cannot start its launcher: {said}", "")
    test = shlex.join([*plan.ssh, host.host.target, "true"])
    what = "cannot be reached" if status == _SSH else "cannot start its launcher"
    return Obstacle(f"{what}: {said}", f"Try: {test}")


def explain_loss(plan: SshPlan, index: int, status: int, words: str) -> Obstacle:
    """Explain that a host has gone which had answered, before all could begin; see above."""
    said = words or f"{make_command(plan, index)[0]} has ended with {status}"
    return Obstacle(f"was lost before the run began: {said}", "")


def explain_silence(seconds: float, words: str) -> Obstacle:
    """Explain that a host has not answered in time."""
    said = f" ({words})" if words else ""
    return Obstacle(f"has not answered in {seconds:g} s{said}", "")


def make_error(names: Mapping[int, str], obstacles: Mapping[int, Obstacle]) -> RendezvousError:
    """Return the error that tells of all hosts which cannot take part. names: of all hosts."""
    texts = [(f"{names[index]} {found.why}.", found.hint) for index, found in obstacles.items()]
    if len(texts) == 1:
        return RendezvousError(texts[0][0], hint=texts[0][1])
    lines = [
        f"{len(texts)} of {len(names)} hosts cannot take part:",
        *sorted(f"{text} {hint}".rstrip() for text, hint in texts),
    ]
    return RendezvousError("\n  ".join(lines))
