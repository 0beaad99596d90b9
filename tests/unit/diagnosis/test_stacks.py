"""What faulthandler wrote, in sentences."""

from __future__ import annotations

import pytest

from launcher.diagnosis.stacks import (
    Frame,
    RankStack,
    group,
    in_words,
    odd_rank,
    parse_dump,
    render,
    shorten_crash,
    summary,
)

DUMP = """\
Thread 0x00007f0001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f0002 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/c10d.py", line 3913 in all_reduce
  File "/venv/lib/python3.11/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/ada/my code/train.py", line 91 in step
  File "/home/ada/my code/train.py", line 120 in <module>
  File "/opt/launcher/worker/bootstrap.py", line 108 in _run_script
"""

WAIT = Frame("/v/site-packages/torch/distributed/distributed_c10d.py", 3913, "all_reduce")
TRAIN = Frame("/home/ada/train.py", 91, "step")
LOAD = Frame("/home/ada/train.py", 88, "load")


def test_dump_gives_the_main_threads_frames_without_ours() -> None:
    frames = parse_dump(DUMP)
    assert [frame.function for frame in frames] == ["all_reduce", "wrapper", "step", "<module>"]
    assert frames[2] == Frame("/home/ada/my code/train.py", 91, "step")


OUR_DUMP = """\
Current thread 0x00007f0002 (most recent call first):
  File "/opt/launcher/worker/exchange.py", line 221 in _wait
  File "/opt/launcher/worker/exchange.py", line 144 in all_reduce
  File "/opt/launcher/worker/dist.py", line 250 in _reduce
  File "/opt/launcher/worker/context.py", line 331 in stopping
  File "/home/ada/train.py", line 91 in step
"""


def test_a_collective_of_the_context_is_named_as_the_script_names_it() -> None:
    frames = parse_dump(OUR_DUMP)
    assert [frame.function for frame in frames] == ["all_reduce", "stopping", "step"]
    waiting = RankStack(0, frames)
    assert in_words(waiting) == "is in stopping (train.py:91)"
    assert odd_rank([waiting, RankStack(1, (LOAD, TRAIN))]) == 1


@pytest.mark.parametrize(
    "text", ["", "nonsense", '  File "x', "Thread 1 (most recent call first):\n  <no Python frame>"]
)
def test_dump_that_is_cut_off_gives_no_frames(text: str) -> None:
    assert parse_dump(text) == ()


@pytest.mark.parametrize(
    ("stack", "text"),
    [
        (RankStack(0, (WAIT, TRAIN)), "is in all_reduce (train.py:91)"),
        (RankStack(0, (LOAD, TRAIN)), "is at train.py:88 in load"),
        (RankStack(0, (), "is stopped by a signal"), "is stopped by a signal"),
        (RankStack(0, (WAIT,)), "is in all_reduce (distributed_c10d.py:3913)"),
        (
            RankStack(0, (Frame("<frozen importlib._bootstrap>", 241, "_call"), LOAD)),
            "imports a module (train.py:88)",
        ),
        (
            RankStack(0, (Frame("/usr/lib/python3.11/threading.py", 1590, "_shutdown"),)),
            "has ended its script and waits for its own threads to end",
        ),
    ],
)
def test_place_is_described_in_a_few_words(stack: RankStack, text: str) -> None:
    assert in_words(stack) == text


def test_equal_stacks_are_one_group_and_the_smallest_leads() -> None:
    stacks = [RankStack(rank, (WAIT, TRAIN)) for rank in (0, 1, 2, 4, 5)] + [
        RankStack(3, (LOAD, TRAIN))
    ]
    assert [[member.rank for member in members] for members in group(stacks)] == [
        [3],
        [0, 1, 2, 4, 5],
    ]
    assert odd_rank(stacks) == 3
    assert (
        summary(stacks)
        == "rank 3 is at train.py:88 in load; ranks 0-2, 4-5 are in all_reduce (train.py:91)"
    )
    assert render(stacks).splitlines()[0] == "rank 3: is at train.py:88 in load"


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("sleeps in futex_wait, outside Python", "sleep in futex_wait, outside Python"),
        ("runs, outside Python", "run, outside Python"),
        ("has ended", "have ended"),
        ("is stopped by a signal (this is SIGSTOP)", "are stopped by a signal (this is SIGSTOP)"),
    ],
)
def test_what_several_ranks_do_is_said_in_the_plural(one: str, several: str) -> None:
    assert summary([RankStack(0, condition=one)]) == f"rank 0 {one}"
    assert summary([RankStack(rank, condition=one) for rank in range(2)]) == f"ranks 0-1 {several}"


def test_several_ranks_that_have_ended_their_scripts_are_said_in_the_plural() -> None:
    at_end = (Frame("/usr/lib/python3.11/threading.py", 1590, "_shutdown"),)
    text = summary([RankStack(rank, at_end) for rank in range(2)])
    assert text == "ranks 0-1 have ended their scripts and wait for their own threads to end"


def test_of_two_ranks_the_one_outside_the_collective_is_odd() -> None:
    stacks = [RankStack(0, (WAIT, TRAIN)), RankStack(1, (LOAD, TRAIN))]
    assert odd_rank(stacks) == 1


def test_nobody_is_odd_when_all_are_alike_or_all_wait() -> None:
    assert odd_rank([RankStack(rank, (WAIT, TRAIN)) for rank in range(4)]) is None
    other = Frame(WAIT.file, 4000, "barrier")
    assert odd_rank([RankStack(0, (WAIT, TRAIN)), RankStack(1, (other, TRAIN))]) is None
    assert odd_rank([]) is None


def test_only_rank_that_is_left_is_the_odd_one() -> None:
    assert odd_rank([RankStack(5, (LOAD,))]) == 5


def test_long_stacks_are_cut() -> None:
    text = render([RankStack(0, tuple(Frame("/a.py", line, "f") for line in range(100)))])
    assert "    ... 88 more" in text
    assert len(text.splitlines()) == 14


CRASH = """\
line 1
terminate called after throwing an instance of 'c10::Error'
  what():  x > 0
Fatal Python error: Aborted

Thread 0x00007f0001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00007f0002 (most recent call first):
  File "/home/ada/train.py", line 91 in step
  File "/opt/launcher/worker/bootstrap.py", line 108 in _run_script

Thread 0x00007f0003 (most recent call first):
  File "/usr/lib/python3.11/queue.py", line 1 in get

Extension modules: numpy, torch (total: 2)"""


def test_crash_is_shortened_to_what_was_said_before_and_the_crashed_thread() -> None:
    assert shorten_crash(tuple(CRASH.splitlines())) == (
        "line 1",
        "terminate called after throwing an instance of 'c10::Error'",
        "  what():  x > 0",
        "Fatal Python error: Aborted",
        '  File "/home/ada/train.py", line 91 in step',
    )


def test_lines_without_a_crash_are_cut_to_the_last() -> None:
    assert shorten_crash(("a", "b", "c"), 2) == ("b", "c")
    assert shorten_crash(()) == ()
