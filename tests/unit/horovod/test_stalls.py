"""What Horovod 0.28.1 says about ranks that wait for each other, read from its real words."""

from __future__ import annotations

import pytest

from launcher.horovod.stalls import Stall, StallWatch

# As it came from a run; the blank in front of the newline is Horovod's.
WORDS = (
    b"[2026-11-21 01:11:14. 52029: W horovod/common/stall_inspector.cc:107] One or more tensors"
    b" were submitted to be reduced, gathered or broadcasted by subset of ranks and are waiting for"
    b" remainder of ranks for more than %d seconds. This may indicate that different ranks are"
    b" trying to submit different tensors or that only subset of ranks is submitting tensors, which"
    b" will cause deadlock. \nMissing ranks:%b\n"
)
MESSAGE = WORDS % (2, b"\n0: [allreduce.mine1]\n1: [allreduce.mine0]")
STALL = Stall(2.0, {0: ("allreduce.mine1",), 1: ("allreduce.mine0",)})


def message(seconds: int, *lines: bytes) -> bytes:
    return WORDS % (seconds, b"".join(b"\n" + line for line in lines))


def read(*pieces: bytes) -> list[Stall]:
    watch = StallWatch()
    return [stall for piece in pieces if (stall := watch.hear(0, piece, 0.0)) is not None]


def test_a_message_names_the_missing_ranks_and_the_tensors() -> None:
    assert read(MESSAGE) == [STALL]
    assert read(b"step 7\n" + MESSAGE + b"step 8\n") == [STALL]


def test_a_message_may_come_in_two_pieces_cut_anywhere() -> None:
    text = b"before\n" + MESSAGE + b"behind\n"
    # Cut behind one of several ranks it would read as whole: Horovod writes all ranks at once.
    after_first_rank = text.index(b"\n1: [") + 1
    for cut in range(len(text)):
        if cut != after_first_rank:
            assert read(text[:cut], text[cut:]) == [STALL], f"cut at {cut}"


def test_a_message_may_come_byte_by_byte() -> None:
    text = message(60, b"3: [allreduce.a]")
    assert read(*(text[at : at + 1] for at in range(len(text)))) == [
        Stall(60.0, {3: ("allreduce.a",)})
    ]


def test_other_text_is_no_stall_and_is_not_kept() -> None:
    watch = StallWatch()
    for text in (
        b"Missing ranks:\n1: [a]\n",
        b"",
        b"\xff\n" * 100,
        b"stall_inspector.cc:1] another message\n",
    ):
        assert watch.hear(0, text, 0.0) is None
    assert watch.hear(0, MESSAGE, 0.0) == STALL


@pytest.mark.parametrize(
    "begin",
    [b"stall_inspector.cc", b"stall_inspector.cc:1] for more than 2 seconds\nMissing ranks:\n"],
)
def test_a_message_that_never_ends_is_given_up(begin: bytes) -> None:
    watch = StallWatch()
    assert watch.hear(0, begin + b"x" * (2 << 20), 0.0) is None
    assert watch.hear(0, b"\n" + MESSAGE, 0.0) == STALL


def test_the_end_that_horovod_announces_is_a_stall_too_and_long_lists_are_cut_by_horovod() -> None:
    text = message(
        4,
        b"1!: [a, b, c, d, e, f ...]",
        b'One or more rank (marked by "!") is stalled. Will shutdown.',
    )
    assert read(text) == [Stall(4.0, {1: ("a", "b", "c", "d", "e", "f")})]


def test_a_stall_counts_from_the_first_message_that_told_of_it() -> None:
    watch = StallWatch()
    stalls = [watch.hear(0, message(10, b"1: [a]"), now) for now in (100.0, 110.1, 120.2)]
    assert [(stall.waited_s, stall.is_new) for stall in stalls if stall] == [
        (10.0, True),
        (pytest.approx(20.1), False),
        (pytest.approx(30.2), False),
    ]


def test_the_same_tensor_in_a_later_step_is_another_stall() -> None:
    watch = StallWatch()
    watch.hear(0, message(10, b"1: [a]"), 100.0)
    later = watch.hear(0, message(10, b"1: [a]"), 120.0)
    assert later is not None
    assert (later.waited_s, later.is_new) == (10.0, True)


def test_a_rank_that_comes_late_to_every_tensor_is_another_stall_each_time() -> None:
    watch = StallWatch()
    stalls = [watch.hear(0, message(10, b"1: [%d]" % i), 10.0 * i) for i in range(5)]
    assert [stall.waited_s for stall in stalls if stall] == [10.0] * 5


def test_messages_of_two_coordinators_do_not_disturb_each_other() -> None:
    watch = StallWatch()
    for i in range(5):
        stalls = [
            watch.hear(rank, message(10, b"%d: [a]" % (rank + 1)), 10.0 * i) for rank in (0, 2)
        ]
    assert [stall.waited_s for stall in stalls if stall] == [50.0, 50.0]


def test_a_stall_says_who_is_waited_for() -> None:
    stall = Stall(5.0, {1: ("a", "b"), 2: ("a", "b"), 5: ("c",)})
    assert stall.summary() == "ranks 1-2 in a, b; rank 5 in c"
    assert stall.odd_rank is None
    assert Stall(5.0, {4: ("a",)}).odd_rank == 4
