"""What holds after every schedule: nobody waits for ever, no two parts go on, all agree.

What is promised without reserve, and what only where nodes can know of each other: of a node that
falls silent while a verdict is told, nobody can say whether it has heard it.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

from tests.unit.nodes.simulation.attempt import NEVER_S, Attempt
from tests.unit.nodes.simulation.story import Story
from tests.unit.nodes.simulation.supervisor import Supervisor

# How long the ranks of an attempt may go on on a node that does not know yet that there is another
# attempt: heartbeats and looks at the clock are up to a second apart, and so are lost packets.
_OVERLAP_S = 2.5

# How long it takes until all have heard of a verdict: looks at the clock, and a farewell.
_TELLING_S = 3.0

# Said by the smaller part of a run.
_CUT_OFF = "not restarted: no more than half"

# Said to all nodes of a run that cannot go on, and to those that come too late.
_TOLD = ("nodes have come", "has ended already")

# As in diagnosis/report.py.
_HANG_CODE = 124

# An attempt, as its nodes have had a part in it.
Parts = list[tuple[Supervisor, Attempt]]


def broken_promises(story: Story, *, has_ended: bool) -> list[str]:
    """Return what was not kept, in words; has_ended: whether all have, in time."""
    nodes = story.world.supervisors
    if not has_ended:
        return [f"these wait for ever: {[one for one in nodes if one.is_alive]}"]
    broken = list(itertools.chain.from_iterable(map(_one_life, nodes)))
    runs = _find_runs(nodes)
    for attempts in runs:
        broken += _one_run(story, attempts)
    # Who has lost one run may wait for a place in another, and end with it.
    if len(runs) == 1:
        broken += _one_end(story, runs[0])
    all_attempts = list(itertools.chain.from_iterable(runs))
    broken += _sight(story, all_attempts)
    broken += _truth(story, all_attempts)
    return broken


def _find_runs(nodes: list[Supervisor]) -> list[list[Parts]]:
    """Return the attempts in their order, by run.

    Those that come when all have ended begin another run; so do enough of them, none of which has
    been in the first, at a launcher that is started again at the endpoint.
    """
    by_key: dict[tuple[object, ...], Parts] = defaultdict(list)
    for node in nodes:
        for run in node.runs:
            by_key[run.key].append((node, run))
    runs: list[list[Parts]] = []
    run_of: dict[Supervisor, list[Parts]] = {}
    again = _started_again(nodes)
    for parts in sorted(by_key.values(), key=_begin):
        known = [run_of[node] for node, _ in parts if node in run_of]
        is_again = any(node in again for node, _ in parts)
        if not runs or (not known and is_again and parts[0][1].generation == 0):
            runs.append([])
        run = known[0] if known else runs[-1]
        run.append(parts)
        run_of.update((node, run) for node, _ in parts)
    for attempts in runs:
        attempts.sort(key=lambda parts: parts[0][1].generation)
    return runs


def _was_told_to_some(parts: Parts) -> bool:
    """Tell whether a node has died as an attempt began: if it coordinates, not all hear of that."""
    return any(node.state == "dead" and node.ended_at - _begin(parts) < 1.0 for node, _ in parts)


def _started_again(nodes: list[Supervisor]) -> list[Supervisor]:
    """Return the launchers that were started at the endpoint after the first one there."""
    return [node for node in nodes[1:] if node.host is nodes[0].host]


def _begin(parts: Parts) -> float:
    return min(run.began_at for _, run in parts)


def _one_life(node: Supervisor) -> Iterator[str]:
    numbers = [run.generation for run in node.runs]
    if numbers != sorted(set(numbers)):
        yield f"{node} has run the attempts {numbers}"
    for run in node.runs:
        if run.ended_at is None or run.ended_at > node.ended_at:
            yield f"{node} has ended, and its ranks run on"


def _one_run(story: Story, attempts: list[Parts]) -> Iterator[str]:
    """See that there is one attempt at a time, on which all of its nodes agree."""
    setting = story.setting
    for parts, following in itertools.zip_longest(attempts, attempts[1:]):
        first = parts[0][1]
        yield from _agreement(parts)
        if not setting.min_nodes <= first.num_nodes <= setting.max_nodes:
            yield f"generation {first.generation} has {first.num_nodes} nodes"
        if following is None:
            continue
        is_same = following[0][1].generation == first.generation
        if is_same and not (story.doubts or _was_told_to_some(parts)):
            yield f"two parts run a generation {first.generation}"
        yield from _stability(story, parts, following)
        for node, run in parts:
            late_s = (run.ended_at or 0.0) - _begin(following) - story.stopped_s[node]
            if late_s > _OVERLAP_S + story.longest_stop_s + story.most_delay_s:
                yield f"{node} goes on with generation {first.generation} for {late_s:.1f} s"
        knowing = [node for node, run in parts if run.is_finished and node.state != "dead"]
        if knowing and not _is_in_doubt(story, knowing):
            yield f"generation {first.generation} was finished, and is not the last"
    # A coordinator that is killed and started again at once does not know what it has seen fail.
    is_again = bool(_started_again(story.world.supervisors))
    is_counted = not story.is_elastic and not story.doubts and not is_again
    if is_counted and attempts[-1][0][1].generation > setting.max_restarts:
        yield f"there is a generation {attempts[-1][0][1].generation}"


def _agreement(runs: Parts) -> Iterator[str]:
    """See that the nodes of an attempt have ranks that fit together."""
    first = runs[0][1]
    places = [place for _, run in runs for place in run.assignment.places]
    if len({place.rank for place in places}) < len(places):
        yield f"a rank of generation {first.generation} runs twice"
    if len({run.node_rank for _, run in runs}) < len(runs):
        yield f"a node rank of generation {first.generation} is there twice"
    if len({(place.world_size, place.num_nodes) for place in places}) != 1:
        yield f"the nodes of generation {first.generation} have sizes that differ"
    if not all(0 <= place.rank < place.world_size for place in places):
        yield f"generation {first.generation} has a rank beyond its size"
    is_complete = len(runs) == first.num_nodes
    if is_complete and len(places) != places[0].world_size:
        yield f"generation {first.generation} has too few ranks"


def _stability(story: Story, before: Parts, after: Parts) -> Iterator[str]:
    """See that nodes that stay keep their order, and their rank where all before them stay."""
    if story.doubts:
        return  # who comes late is a newcomer
    old = {node: run.node_rank for node, run in before}
    new = {node: run.node_rank for node, run in after}
    staying = sorted((node for node in old if node in new), key=lambda node: old[node])
    if [new[node] for node in staying] != sorted(new[node] for node in staying):
        yield f"nodes that stay change their order: {old} {new}"
    for number, node in enumerate(staying):
        if old[node] == number and new[node] != number:
            yield f"{node} was node {number}, and is node {new[node]} now"


def _one_end(story: Story, attempts: list[Parts]) -> Iterator[str]:
    """See that all nodes that end agree on how, and that one of them reports."""
    nodes = story.world.supervisors
    ended = [node for node in nodes if node.state == "ended"]
    decided = [node for node in ended if node.error is None and _knows_end(node)]
    if not decided:
        return
    if _is_in_doubt(story, decided):
        return
    told_at = _tell_time(story, decided)
    dead = [node for node in nodes if node.state == "dead"]
    died_late = any(node.ended_at > told_at or _knows_end(node) for node in dead)
    # Where who coordinates has died as it told it, a node that only waits may know more; and where
    # it has died as it told of an attempt, one that has not heard of that has gone on by itself.
    last = {node for node, _ in attempts[-1]}
    is_split = any(map(_was_told_to_some, attempts))
    knowing = [node for node in decided if node.runs or not died_late]
    codes = {node.exit_code for node in knowing if node in last or not is_split}
    if len(codes) > 1:
        yield f"the nodes end with {sorted(map(str, codes))}"
    num_reports = sum(node.reports for node in nodes if node in decided or node.state == "dead")
    has_report = any(node.verdict.report is not None for node in decided)
    if num_reports > 1 or (has_report and num_reports == 0 and not died_late):
        yield f"there are {num_reports} reports"
    if story.doubts:
        return
    for node in ended:
        is_told = node.error is None or any(text in str(node.error) for text in _TOLD)
        if node.runs and not is_told:
            yield f"{node} knows of no end"


def _knows_end(node: Supervisor) -> bool:
    is_cut_off = node.verdict.reason.startswith(_CUT_OFF)
    return node.verdict.action in ("finish", "give_up") and not is_cut_off


def _tell_time(story: Story, decided: list[Supervisor]) -> float:
    """Return when the verdict may have been told, at the earliest."""
    return min(node.ended_at for node in decided) - _TELLING_S - story.longest_stop_s


def _is_in_doubt(story: Story, decided: list[Supervisor]) -> bool:
    """Tell whether some node may have been out of reach while a verdict was told."""
    since = _tell_time(story, decided) - story.setting.node_timeout_s
    until = max(node.ended_at for node in decided)
    return any(begin < until and since < end for begin, end in story.doubts)


def _sight(story: Story, attempts: list[Parts]) -> Iterator[str]:
    """See that nobody takes nodes that have ended for a part of the run that goes on."""
    if story.doubts or any(map(_was_told_to_some, attempts)):
        return
    for node in story.world.supervisors:
        if node.verdict.reason.startswith(_CUT_OFF):
            yield f"{node} gives up for the sake of others, and there are none"


def _truth(story: Story, attempts: list[Parts]) -> Iterator[str]:
    """See that a run that ends with 0 has succeeded, and one that has failed says of what."""
    ended = (node for node in story.world.supervisors if node.state == "ended")
    with_part = [node for node in ended if node.error is None and node.runs and _knows_end(node)]
    if any(node.exit_code == 0 for node in with_part):
        if not any(map(_has_succeeded, attempts)):
            yield "the run has succeeded, and none of its attempts"
        return
    own = set().union(*(run.failed_codes for parts in attempts for _, run in parts))
    workers = [worker for parts in attempts for _, run in parts for worker in run.workers]
    if any(worker.fate.after_s >= NEVER_S for worker in workers):
        own.add(_HANG_CODE)
    allowed = own | {1, 3} | {128 + signum for signum in story.signals}
    for node in with_part:
        if node.exit_code not in allowed:
            yield f"{node} ends with a code that nobody had"


def _has_succeeded(parts: Parts) -> bool:
    is_complete = len(parts) == parts[0][1].num_nodes
    return is_complete and all(run.has_succeeded or run.has_left for _, run in parts)
