"""Stacks of workers: what faulthandler wrote -> frames, groups, sentences that name the odd rank.

Pure: text in, values and text out. Who asks the workers is in probe.py.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence

from launcher.named import NamedTuple
from launcher.ranks import format_ranks

# Wrappers between the call in the script and the function that a person would name.
_WRAPPERS = frozenset(
    ("wrapper", "inner", "_call_impl", "_wrapped_call_impl", "decorate_context", "_fn", "__call__")
)

# How a worker came to run the script says nothing about where it is; in which of the Context's
# collectives it waits does, and that it waits for gradients.
_OUR_FRAMES = "/launcher/worker/"
_OUR_COLLECTIVES = {
    "/launcher/worker/context.py": frozenset(
        ("all_gather", "all_reduce", "barrier", "broadcast_object", "gather_object", "stopping")
    ),
    "/launcher/worker/exchange.py": frozenset(("all_reduce",)),
}
_COLLECTIVE_FILES = ("torch/distributed", "horovod", *_OUR_COLLECTIVES)

# How what one rank does is said of several, by its beginning; the longer first.
_OF_SEVERAL = (
    (
        "has ended its script and waits for its own threads",
        "have ended their scripts and wait for their own threads",
    ),
    ("has ", "have "),
    ("is ", "are "),
    ("imports ", "import "),
    ("runs, ", "run, "),
    ("sleeps ", "sleep "),
)

_LIBRARY_MARKS = ("site-packages", "dist-packages", "/lib/python3", "<frozen", _OUR_FRAMES)


class Frame(NamedTuple):
    """One line of a stack."""

    file: str
    line: int
    function: str

    @property
    def is_library(self) -> bool:
        return any(mark in self.file for mark in _LIBRARY_MARKS)

    @property
    def location(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


class RankStack(NamedTuple):
    """Where one rank is: its main thread's frames, innermost first, or its condition."""

    rank: int
    frames: tuple[Frame, ...] = ()
    # "stopped by a signal (SIGSTOP)", "has ended" ... or "" when there are frames.
    condition: str = ""


def parse_dump(text: str) -> tuple[Frame, ...]:
    """Return the main thread's frames from a faulthandler dump, where it is listed last."""
    frames: list[Frame] = []
    for line in text.splitlines():
        if line.endswith("(most recent call first):"):
            frames = []
        elif line.startswith('  File "'):
            path, _, rest = line[8:].partition('", line ')
            number, _, function = rest.partition(" in ")
            if number.isdigit() and (_OUR_FRAMES not in path or _is_collective(path, function)):
                frames.append(Frame(path, int(number), function))
    return tuple(frames)


def _is_collective(path: str, function: str) -> bool:
    """Tell whether a function of ours waits for other ranks."""
    return any(
        path.endswith(file) and function in functions
        for file, functions in _OUR_COLLECTIVES.items()
    )


def shorten_crash(lines: tuple[str, ...], most: int = 20) -> tuple[str, ...]:
    """Return the last lines of a worker that crashed: some, and the stack of the crashed thread.

    Without the other threads' stacks, our own frames, and the list of extension modules. Lines
    without a crash stay, the last `most` of them.
    """
    begin = next(
        (at for at in reversed(range(len(lines))) if lines[at].startswith("Fatal Python error: ")),
        None,
    )
    if begin is None:
        return lines[-most:]
    frames: list[str] = []
    is_current = False
    for line in lines[begin + 1 :]:
        if line.endswith("(most recent call first):"):
            is_current = line.startswith("Current thread")
        elif is_current and line.startswith('  File "') and _OUR_FRAMES not in line:
            frames.append(line)
    before = [line for line in lines[:begin] if line.strip()]
    return (*before[-most // 2 :], lines[begin], *frames[: most - 1])


def in_words(stack: RankStack) -> str:
    """Say where a rank is, in a few words: `waits in all_reduce (train.py:91)`."""
    if not stack.frames:
        return stack.condition
    functions = {frame.function for frame in stack.frames}
    if "_shutdown" in functions and any(
        frame.file.endswith("threading.py") for frame in stack.frames
    ):
        return "has ended its script and waits for its own threads to end"
    if any("frozen importlib" in frame.file for frame in stack.frames):
        location = next((frame.location for frame in stack.frames if not frame.is_library), "")
        return f"imports a module ({location})" if location else "imports a module"
    user_at = next((at for at, frame in enumerate(stack.frames) if not frame.is_library), None)
    if user_at is None:
        return f"is in {stack.frames[0].function} ({stack.frames[0].location})"
    user = stack.frames[user_at]
    below = [frame for frame in stack.frames[:user_at] if frame.function not in _WRAPPERS]
    if below:
        return f"is in {below[-1].function} ({user.location})"
    return f"is at {user.location} in {user.function}"


def group(stacks: Sequence[RankStack]) -> list[list[RankStack]]:
    """Put ranks with the same stack together, the smallest group first: the odd ones lead."""
    groups: dict[object, list[RankStack]] = {}
    for stack in stacks:
        groups.setdefault(stack.frames or stack.condition, []).append(stack)
    return sorted(groups.values(), key=lambda members: (len(members), members[0].rank))


def odd_rank(stacks: Sequence[RankStack]) -> int | None:
    """Return the rank that stands alone while the others share a stack; None without one."""
    groups = group(stacks)
    if len(stacks) == 1:
        return stacks[0].rank  # all others have ended
    if len(groups) < 2 or len(groups[0]) == len(groups[1]):
        # Two ranks that differ: the one that is not inside a collective keeps the other waiting.
        waiting = [members for members in groups if _is_waiting(members[0])]
        others = [members for members in groups if not _is_waiting(members[0])]
        return others[0][0].rank if len(others) == 1 and waiting else None
    return groups[0][0].rank


def _is_waiting(stack: RankStack) -> bool:
    return any(name in frame.file for frame in stack.frames for name in _COLLECTIVE_FILES)


def render(stacks: Sequence[RankStack]) -> str:
    """Return one line for each group, and below it the stack that its ranks share."""
    lines: list[str] = []
    for members in group(stacks):
        ranks = format_ranks([member.rank for member in members])
        text = in_words(members[0])
        lines.append(f"{ranks}: {text if len(members) == 1 else 'each ' + text}")
        lines.extend(
            f"    {frame.location} in {frame.function}" for frame in members[0].frames[:12]
        )
        if len(members[0].frames) > 12:
            lines.append(f"    ... {len(members[0].frames) - 12} more")
    return "\n".join(lines)


def summary(stacks: Sequence[RankStack]) -> str:
    """Return one sentence: `rank 3 is in next (a.py:8); ranks 0-2 are in all_reduce (a.py:9)`."""
    parts = []
    for members in group(stacks):
        ranks = format_ranks([member.rank for member in members])
        text = in_words(members[0])
        parts.append(f"{ranks} {text if len(members) == 1 else _of_several(text)}")
    return "; ".join(parts)


def _of_several(text: str) -> str:
    one, several = next((pair for pair in _OF_SEVERAL if text.startswith(pair[0])), ("", ""))
    return several + text[len(one) :]
