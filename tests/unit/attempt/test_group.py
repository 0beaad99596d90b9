"""One attempt, played from histories: these events come, so these calls go out.

No process, no clock.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from launcher.attempt import relay
from launcher.attempt.group import GATHER_S, Group
from launcher.attempt.stop import GIVE_UP_S, SWEEP_GRACE_S
from launcher.contract.files import RunPaths
from launcher.events import (
    Asked,
    ChildrenChanged,
    Event,
    Exited,
    ForkServerLost,
    PeersStop,
    Signalled,
    Started,
    StartFailed,
    TaskLost,
    TaskSignalled,
)
from launcher.system.processes import ProcessInfo
from tests.unit.attempt.fakes import FIRST_PID, Stage, Step, plan

GRACE_S = 30.0
ORPHAN = FIRST_PID + 100


class Played(NamedTuple):
    """What came of a history."""

    # What was asked of the kernel, from the last step of the history on.
    calls: list[str]
    said: list[str]
    # How each worker ended; None for one that never did.
    codes: list[int | None]
    # The signal that the launch was asked to stop with, and the one that ended this attempt.
    asked: int | None
    signum: int | None
    node_failure: str
    # Seconds from the start to the end.
    took_s: float
    # What an engine's processes were to be told: local rank and return code, in order of the ends.
    ends: list[tuple[int, int]]


def play(before: list[Step], *after: Step, tasks: int = 0) -> Played:
    """Play an attempt of two workers to its end; `calls` and `said` are those after `before`.

    tasks: how many processes an engine has started, for which the workers stand.
    """
    stage = Stage(before, tasks=tasks)
    marks: list[int] = []

    def mark() -> None:
        marks.extend((len(stage.kernel.calls), len(stage.console.said)))

    def leave_an_orphan() -> None:
        stage.kernel.orphans.add(ORPHAN)

    stage.loop.history = [
        leave_an_orphan if step is LEAVES_AN_ORPHAN else step for step in (*before, mark, *after)
    ]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    assert stage.loop.timers == {}
    assert stage.loop.readers == {}
    assert not stage.loop.history, "the attempt ended before its history"
    stage.starter.close()
    outcome = group.outcome()
    return Played(
        calls=stage.kernel.calls[marks[0] :],
        said=stage.console.said[marks[1] :],
        codes=[worker.returncode for worker in outcome.workers],
        asked=stage.stop_request.signum,
        signum=outcome.signum,
        node_failure=outcome.node_failure,
        took_s=stage.loop.now,
        ends=stage.crew.ends,
    )


def LEAVES_AN_ORPHAN() -> None:  # noqa: N802  (a step of a history; play() puts in what it does)
    """One of the workers has left a process behind."""


# How an attempt gets into each of its states; rank 1 runs on, unless it is said that it has ended.
STATES: dict[str, list[Step]] = {
    "running": [],
    "stopping after a failure": [Exited(0, 3)],
    "settled": [Exited(0, 3), GATHER_S],
    "stopping after a signal": [Signalled(signal.SIGTERM)],
    "killing": [Exited(0, 3), GATHER_S, GRACE_S],
    "sweeping": [LEAVES_AN_ORPHAN, Exited(0, 3), Exited(1, -signal.SIGTERM)],
}
EVENTS: dict[str, Event] = {
    "rank 1 ends well": Exited(1, 0),
    "rank 1 fails": Exited(1, 5),
    "rank 1 does not start": StartFailed(1, "no such file", 126),
    "SIGTERM": Signalled(signal.SIGTERM),
    "SIGINT": Signalled(signal.SIGINT),
    "SIGUSR1": Signalled(signal.SIGUSR1),
    "Ctrl-Z": Signalled(signal.SIGTSTP),
    "a child changes": ChildrenChanged(),
    "the fork server dies": ForkServerLost(-signal.SIGKILL),
    "rank 1 asks": Asked(1),
}

# After the event in a running attempt, rank 0 ends well, and then rank 1 where it still runs.
ENDS_WELL = {
    **dict.fromkeys(EVENTS, (Exited(0, 0), Exited(1, 0))),
    "rank 1 ends well": (Exited(0, 0),),
    "rank 1 fails": (Exited(0, -signal.SIGTERM),),
    "rank 1 does not start": (Exited(0, -signal.SIGTERM),),
    "the fork server dies": (),
}

# What is asked of the kernel from the event on => how ranks 0 and 1 end, and after how long.
HISTORIES: dict[str, dict[str, str]] = {
    "running": {
        "rank 1 ends well": "nothing => 0 0 after 0 s",
        "rank 1 fails": "TERM 0, CONT group 0 => -15 5 after 0 s",
        "rank 1 does not start": "TERM 0, CONT group 0 => -15 126 after 0 s",
        "SIGTERM": "TERM 0, CONT group 0, TERM 1, CONT group 1 => 0 0 after 0 s",
        "SIGINT": "INT 0, CONT group 0, INT 1, CONT group 1 => 0 0 after 0 s",
        "SIGUSR1": "USR1 0, USR1 1 => 0 0 after 0 s",
        "Ctrl-Z": (
            "STOP group 0, STOP group 1, stop ourselves, CONT group 0, CONT group 1 => 0 0"
            " after 0 s"
        ),
        "a child changes": "nothing => 0 0 after 0 s",
        "the fork server dies": "kill 0, TERM 1, CONT group 1, kill 1 => -9 -9 after 0 s",
        "rank 1 asks": "nothing => 0 0 after 0 s",
    },
    "stopping after a failure": {
        "rank 1 ends well": "nothing => 3 0 after 0 s",
        "rank 1 fails": "nothing => 3 5 after 0 s",
        "rank 1 does not start": "nothing => 3 126 after 0 s",
        "SIGTERM": "kill 1 => 3 -9 after 30 s",
        "SIGINT": "kill 1 => 3 -9 after 30 s",
        "SIGUSR1": "USR1 1, kill 1 => 3 -9 after 30 s",
        "Ctrl-Z": "STOP group 1, stop ourselves, CONT group 1, kill 1 => 3 -9 after 30 s",
        "a child changes": "kill 1 => 3 -9 after 30 s",
        "the fork server dies": "kill 1 => 3 -9 after 0 s",
        "rank 1 asks": "kill 1 => 3 -9 after 30 s",
    },
    "settled": {
        "rank 1 ends well": "nothing => 3 0 after 0.25 s",
        "rank 1 fails": "nothing => 3 5 after 0.25 s",
        "rank 1 does not start": "nothing => 3 126 after 0.25 s",
        "SIGTERM": "kill 1 => 3 -9 after 30 s",
        "SIGINT": "kill 1 => 3 -9 after 30 s",
        "SIGUSR1": "USR1 1, kill 1 => 3 -9 after 30 s",
        "Ctrl-Z": "STOP group 1, stop ourselves, CONT group 1, kill 1 => 3 -9 after 30 s",
        "a child changes": "kill 1 => 3 -9 after 30 s",
        "the fork server dies": "kill 1 => 3 -9 after 0.25 s",
        "rank 1 asks": "kill 1 => 3 -9 after 30 s",
    },
    "stopping after a signal": {
        "rank 1 ends well": "kill 0 => -9 0 after 30 s",
        "rank 1 fails": "kill 0 => -9 5 after 30 s",
        "rank 1 does not start": "kill 0 => -9 126 after 30 s",
        "SIGTERM": "kill 0, kill 1 => -9 -9 after 0 s",
        "SIGINT": "kill 0, kill 1 => -9 -9 after 0 s",
        "SIGUSR1": "USR1 0, USR1 1, kill 0, kill 1 => -9 -9 after 30 s",
        "Ctrl-Z": (
            "STOP group 0, STOP group 1, stop ourselves, CONT group 0, CONT group 1, kill 0, kill 1"
            " => -9 -9 after 30 s"
        ),
        "a child changes": "kill 0, kill 1 => -9 -9 after 30 s",
        "the fork server dies": "kill 0, kill 1 => -9 -9 after 0 s",
        "rank 1 asks": "kill 0, kill 1 => -9 -9 after 30 s",
    },
    "killing": {
        "rank 1 ends well": "nothing => 3 0 after 30.25 s",
        "rank 1 fails": "nothing => 3 5 after 30.25 s",
        "rank 1 does not start": "nothing => 3 126 after 30.25 s",
        "SIGTERM": "nothing => 3 -9 after 30.25 s",
        "SIGINT": "nothing => 3 -9 after 30.25 s",
        "SIGUSR1": "USR1 1 => 3 -9 after 30.25 s",
        "Ctrl-Z": "STOP group 1, stop ourselves, CONT group 1 => 3 -9 after 30.25 s",
        "a child changes": "nothing => 3 -9 after 30.25 s",
        "the fork server dies": "nothing => 3 -9 after 30.25 s",
        "rank 1 asks": "nothing => 3 -9 after 30.25 s",
    },
    "sweeping": {
        "rank 1 ends well": "KILL orphan => 3 -15 after 0.5 s",
        "rank 1 fails": "KILL orphan => 3 -15 after 0.5 s",
        "rank 1 does not start": "KILL orphan => 3 -15 after 0.5 s",
        "SIGTERM": "KILL orphan => 3 -15 after 0.5 s",
        "SIGINT": "KILL orphan => 3 -15 after 0.5 s",
        "SIGUSR1": "KILL orphan => 3 -15 after 0.5 s",
        "Ctrl-Z": "stop ourselves, KILL orphan => 3 -15 after 0.5 s",
        "a child changes": "KILL orphan => 3 -15 after 0.5 s",
        "the fork server dies": "KILL orphan => 3 -15 after 0.5 s",
        "rank 1 asks": "KILL orphan => 3 -15 after 0.5 s",
    },
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_event_in_every_state(state: str, event: str) -> None:
    played = play(STATES[state], EVENTS[event], *(ENDS_WELL[event] if state == "running" else ()))
    codes = " ".join(map(str, played.codes))
    found = f"{', '.join(played.calls) or 'nothing'} => {codes} after {played.took_s:g} s"
    assert found == HISTORIES[state][event]


@pytest.mark.parametrize("event", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("state", STATES)
def test_a_signal_is_said_and_counts_in_every_state(state: str, event: str) -> None:
    end = (Exited(0, 0), Exited(1, 0)) if state == "running" else ()
    played = play(STATES[state], EVENTS[event], *end)
    if state == "stopping after a signal":  # it is the second one: it forces
        assert played.calls == ["kill 0", "kill 1"]
        assert played.took_s == 0
        return
    number = int(signal.Signals[event])
    assert played.said[0] == f"received {event}; stopping, a second one forces"
    assert (played.asked, played.signum) == (number, number)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("stopping after a failure", ["kill 1"]),
        ("settled", ["kill 1"]),
        ("sweeping", ["KILL orphan"]),
    ],
)
def test_a_second_signal_forces_in_every_state(state: str, expected: list[str]) -> None:
    played = play(STATES[state], EVENTS["SIGTERM"], EVENTS["SIGTERM"])
    assert played.calls == expected
    assert played.took_s == (GATHER_S if state == "settled" else 0)


ELSEWHERE = PeersStop("node 1 (h2) received SIGTERM", signal.SIGTERM)


def test_a_signal_that_has_also_come_to_another_node_is_not_a_second_one() -> None:
    """A scheduler sends it to all nodes, and the word of one may be quicker than it."""
    played = play([ELSEWHERE], EVENTS["SIGTERM"])
    assert "received" not in "".join(played.said)
    assert (played.calls, played.took_s) == (["kill 0", "kill 1"], GRACE_S)
    played = play([ELSEWHERE, EVENTS["SIGTERM"]], EVENTS["SIGTERM"])
    assert (played.calls, played.took_s) == (["kill 0", "kill 1"], 0)


def test_the_fork_servers_death_is_the_nodes_failure_unless_all_had_ended() -> None:
    assert "has died: killed by SIGKILL" in play([], EVENTS["the fork server dies"]).node_failure
    assert not play(STATES["sweeping"], EVENTS["the fork server dies"]).node_failure


def test_a_worker_that_the_kernel_holds_is_given_up_and_known_to_be_alive() -> None:
    stage = Stage([Exited(0, 3)])
    stage.kernel.kill_sessions = lambda session_ids: None  # type: ignore[method-assign]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert [worker.returncode for worker in group.outcome().workers] == [3, None]
    assert stage.loop.now == GRACE_S + GIVE_UP_S
    # Its end may come in the next attempt, and must not be taken for that of a worker there.
    assert "forget 1" in stage.starter.calls
    assert "forget 0" not in stage.starter.calls


@pytest.mark.parametrize("num_signals", [2, 3, 12])
def test_asking_again_and_again_does_not_put_off_giving_up(num_signals: int) -> None:
    stage = Stage([*[Signalled(signal.SIGINT), 1.0] * num_signals])
    stage.kernel.kill_sessions = lambda session_ids: None  # type: ignore[method-assign]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert stage.loop.now == 1.0 + GIVE_UP_S  # the second one forces


def test_a_worker_that_comes_to_be_after_the_second_signal_is_killed_too() -> None:
    """A fork server starts it a moment after it was asked to."""
    stage = Stage()
    stage.starter.start = lambda worker, descriptors: []  # type: ignore[method-assign]
    stage.loop.history = [
        Started(0, FIRST_PID),
        Signalled(signal.SIGTERM),
        Signalled(signal.SIGTERM),
        Started(1, FIRST_PID + 1),
    ]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    assert stage.kernel.calls[-2:] == ["kill 0", "kill 1"]
    assert [worker.returncode for worker in group.outcome().workers] == [-9, -9]
    assert stage.loop.now == 0


def test_when_all_have_ended_nobody_is_said_to_stay() -> None:
    """The grace period may end while what they left behind is still being ended."""
    stage = Stage([Exited(0, 3), Exited(1, -signal.SIGTERM)])
    stage.kernel.orphans.add(ORPHAN)
    with Group(plan(shutdown_timeout=0.2), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert stage.loop.now == SWEEP_GRACE_S
    assert not stage.console.said
    assert stage.kernel.calls[-1] == "KILL orphan"


def test_what_is_born_while_the_rest_is_killed_is_killed_too() -> None:
    newborn = ORPHAN + 1
    stage = Stage([Exited(0, 0), Exited(1, 0)])
    stage.kernel.orphans.add(ORPHAN)
    kill = stage.kernel.signal

    def kill_too_late(pid: int, signum: int) -> None:
        if pid == ORPHAN and signum == signal.SIGKILL:
            stage.kernel.orphans.add(newborn)
        kill(pid, signum)

    stage.kernel.signal = kill_too_late  # type: ignore[method-assign]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert not stage.kernel.orphans
    assert stage.loop.now == SWEEP_GRACE_S


def test_the_time_for_which_ctrl_z_has_stopped_us_is_not_taken_from_the_grace_period() -> None:
    stage = Stage([Exited(0, 3), Signalled(signal.SIGTSTP)])

    def be_stopped_for_an_hour() -> None:
        stage.loop.now += 3600

    stage.kernel.stop_ourselves = be_stopped_for_an_hour  # type: ignore[method-assign]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert stage.loop.now == 3600 + GRACE_S


def test_an_exit_that_is_told_twice_counts_once() -> None:
    assert play([Exited(0, 3)], Exited(0, 0), Exited(1, 0)).codes == [3, 0]


def test_what_a_worker_has_written_is_in_order_though_its_end_comes_in_the_same_turn(
    tmp_path: Path,
) -> None:
    """What was read before the exit was handled must not come behind what is drained then."""
    stage = Stage()
    (tmp_path / "logs").mkdir()

    def write_and_end() -> list[Event]:
        stage.starter.write(0, "first\n")
        events = stage.loop.read_all()
        stage.starter.write(0, "second\n")
        return [*events, Exited(0, 0)]

    stage.loop.history = [write_and_end]
    paths = RunPaths(str(tmp_path), str(tmp_path / "logs"), 1)
    with Group(plan(1, paths), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert (tmp_path / "logs" / "rank_00.out").read_text() == "first\nsecond\n"
    assert stage.console.shown == [b"[0] first\n", b"[0] second\n"]


def test_an_outcome_is_made_once_for_each_worker() -> None:
    """The kernel's counters tell of each death once: who asks again must not get another answer."""
    stage = Stage([Exited(0, -signal.SIGKILL), Exited(1, 0)])
    explained: list[int] = []

    def explain(returncode: int, pid: int, peak_kib: int | None) -> str:
        explained.append(pid)
        return "the kernel says why"

    stage.node.evidence.explain = explain  # type: ignore[method-assign]
    with Group(plan(), stage.starter, stage.node) as group:
        first = group.run()
        assert group.outcome().workers[0] is first.workers[0]
    stage.starter.close()
    assert group.outcome().workers[0].evidence == "the kernel says why"
    assert explained == [FIRST_PID]


# Workers that stand for the processes of an engine: what these get, the workers get.
TERM_0, TERM_1 = (TaskSignalled(local_rank, signal.SIGTERM) for local_rank in (0, 1))

# Events, each with what passes until nothing more comes of it => what is asked of the kernel.
OF_AN_ENGINE: dict[str, tuple[list[Step], str]] = {
    "SIGUSR1 to one process": ([TaskSignalled(1, signal.SIGUSR1)], "USR1 1"),
    "SIGUSR1 to all": (
        [TaskSignalled(0, signal.SIGUSR1), TaskSignalled(1, signal.SIGUSR1)],
        "USR1 0, USR1 1",
    ),
    "SIGUSR1 to us alone": ([Signalled(signal.SIGUSR1)], "nothing"),
    "an unusual signal": ([TaskSignalled(0, signal.SIGURG)], "URG 0"),
    "two signals to one process": (
        [TaskSignalled(0, signal.SIGUSR2), TaskSignalled(0, signal.SIGUSR1)],
        "USR2 0, USR1 0",
    ),
    "Ctrl-Z, then on": (
        [TaskSignalled(0, signal.SIGTSTP), TaskSignalled(0, signal.SIGCONT)],
        "STOP group 0, CONT group 0",
    ),
    "SIGTERM to one process that goes on": ([TERM_1], "TERM 1"),
    "SIGINT to one process that goes on": ([TaskSignalled(1, signal.SIGINT)], "INT 1"),
    "SIGTERM to all, each goes on": ([TERM_0, TERM_1], "TERM 0, TERM 1"),
}


@pytest.mark.parametrize("story", OF_AN_ENGINE)
def test_a_worker_gets_what_its_process_gets(story: str) -> None:
    events, expected = OF_AN_ENGINE[story]
    played = play([], *events, Exited(0, 0), Exited(1, 0), tasks=2)
    assert (", ".join(played.calls) or "nothing") == expected
    assert (played.asked, played.said, played.ends) == (None, [], [(0, 0), (1, 0)])


# SIGTERM has come to both processes; what is asked of the kernel after that, and what is said.
STOPPED_BY_AN_ENGINE: dict[str, tuple[list[Step], str, int | None]] = {
    "one ends of it, and the other, which saves, is not told again": (
        [Exited(0, -signal.SIGTERM), 5.0, Exited(1, 0)],
        "nothing",
        signal.SIGTERM,
    ),
    "one ends of it with an exit code of its own": (
        [Exited(0, 1), Exited(1, 143)],
        "nothing",
        signal.SIGTERM,
    ),
    "one ends of it, and the other never": ([Exited(0, -signal.SIGTERM)], "kill 1", signal.SIGTERM),
    "both end well": ([Exited(0, 0), Exited(1, 0)], "nothing", None),
    "both go on; one fails long after, and the other is asked to end": (
        [GRACE_S + 1, Exited(0, 3), Exited(1, -signal.SIGTERM)],
        "TERM 1, CONT group 1",
        None,
    ),
}


@pytest.mark.parametrize("story", STOPPED_BY_AN_ENGINE)
def test_nobody_gets_a_second_sigterm_by_which_programs_end_at_once(story: str) -> None:
    events, expected, asked = STOPPED_BY_AN_ENGINE[story]
    played = play([TERM_0, TERM_1], *events, tasks=2)
    assert (", ".join(played.calls) or "nothing") == expected
    assert (played.asked, played.signum) == (asked, asked)
    if asked is not None:
        assert played.said[0] == "rank 0 was sent SIGTERM and has ended; stopping"


def test_a_rank_that_fails_while_others_go_on_ends_them_as_without_an_engine() -> None:
    played = play([], Exited(1, 5), Exited(0, -15), tasks=2)
    assert played.calls == ["TERM 0", "CONT group 0"]
    assert (played.codes, played.ends) == ([-15, 5], [(1, 5), (0, -15)])
    assert played.signum is None


def test_a_process_that_was_killed_takes_its_worker_along_and_the_others_with_it() -> None:
    stage = Stage(tasks=2)
    stage.loop.history = [lambda: stage.crew.lose(1)]
    with Group(plan(), stage.starter, stage.node) as group:
        outcome = group.run()
    stage.starter.close()
    # Its session once more when it has ended: what was born meanwhile.
    assert stage.kernel.calls == ["kill 1", "kill 1", "TERM 0", "CONT group 0", "kill 0"]
    assert outcome.workers[1].returncode == -signal.SIGKILL
    pid = stage.crew.links[1].facts.pid
    assert outcome.workers[1].evidence == f"the process that stood for it (pid {pid}) was killed"


def test_a_process_that_is_killed_before_its_worker_has_come_to_be_takes_it_along_then() -> None:
    stage = Stage(tasks=2)
    stage.starter.start = lambda worker, descriptors: []  # type: ignore[method-assign]
    stage.loop.history = [
        Started(0, FIRST_PID),
        lambda: stage.crew.lose(1),
        Started(1, FIRST_PID + 1),
    ]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    assert stage.kernel.calls[0] == "kill 1"


def test_a_signal_before_a_worker_has_come_to_be_waits_for_it() -> None:
    """A fork server starts many of them one after the other."""
    stage = Stage(tasks=2)
    stage.starter.start = lambda worker, descriptors: []  # type: ignore[method-assign]
    stage.loop.history = [
        Started(0, FIRST_PID),
        TERM_0,
        TERM_1,
        Started(1, FIRST_PID + 1),
        Exited(0, 0),
        Exited(1, 0),
    ]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    assert stage.kernel.calls == ["TERM 0", "TERM 1"]


def test_signals_in_close_succession_do_not_keep_each_other_waiting() -> None:
    often: list[Step] = [TaskSignalled(0, signal.SIGUSR1), 0.03] * 10
    played = play([], *often, Exited(0, 0), Exited(1, 0), tasks=2)
    assert played.calls == ["USR1 0"] * 10


def test_workers_are_stopped_and_continued_with_a_process_that_nobody_can_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGSTOP to a process of the engine is seen by nobody but the kernel."""
    stage = Stage(tasks=2)
    stopped = {stage.crew.links[1].facts.pid}

    def look(pid: int) -> ProcessInfo:
        return ProcessInfo(pid, "python", "T" if pid in stopped else "S", 1, 1, "")

    monkeypatch.setattr(relay, "process_info", look)
    stage.loop.history = [1.2, stopped.clear, 1.2, Exited(0, 0), Exited(1, 0)]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    stage.starter.close()
    assert stage.kernel.calls == ["STOP group 1", "CONT group 1"]


def test_workers_that_an_engine_has_stopped_do_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm suspends a job for as long as it likes."""
    stage = Stage(tasks=2)
    stopped = {link.facts.pid for link in stage.crew.links}

    def look(pid: int) -> ProcessInfo:
        return ProcessInfo(pid, "python", "T" if pid in stopped else "S", 1, 1, "")

    monkeypatch.setattr(relay, "process_info", look)
    stage.loop.history = [*[1.0] * 50, stopped.clear, 5.0, Exited(0, 0), Exited(1, 0)]
    with Group(plan(hang_timeout=20.0), stage.starter, stage.node) as group:
        outcome = group.run()
    stage.starter.close()
    assert outcome.hang is None
    assert outcome.succeeded


def test_the_signals_of_processes_whose_workers_have_ended_go_nowhere() -> None:
    played = play(
        [Exited(1, 0)], TERM_1, TaskSignalled(1, signal.SIGTSTP), TaskLost(1), Exited(0, 0), tasks=2
    )
    assert played.calls == []
    assert played.codes == [0, 0]


def test_output_that_is_read_before_the_news_of_a_start_is_noted_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    start = stage.starter.start

    def start_without_a_word(*args: Any) -> list[Event]:
        start(*args)
        return []

    monkeypatch.setattr(stage.starter, "start", start_without_a_word)
    stage.loop.history = [
        lambda: stage.starter.write(0, "text\n"),
        stage.loop.read_all,
        *(Started(rank, FIRST_PID + rank) for rank in (0, 1)),
        lambda: stage.starter.write(1, "text\n"),
        stage.loop.read_all,
        *(Exited(rank, 0) for rank in (0, 1)),
    ]
    with Group(plan(), stage.starter, stage.node) as group:
        group.run()
    noted = [(name, fields["rank"]) for _, name, fields in stage.node.record.happenings]
    assert noted == [
        *(("rank_started", 0), ("first_output", 0), ("rank_started", 1), ("first_output", 1)),
        *(("rank_ended", 0), ("rank_ended", 1)),
    ]
