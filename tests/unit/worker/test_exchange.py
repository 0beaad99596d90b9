"""The exchange through shared memory, with a thread for each rank: sums, ends, disagreements."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.errors import UsageError
from launcher.worker import exchange as exchange_module
from launcher.worker.exchange import MOST_RANKS, Exchange

torch = pytest.importorskip("torch")


def make_exchanges(num_ranks: int, timeout_s: float = 60) -> list[Exchange]:
    """The exchanges of so many ranks; this process stands for each of them."""
    libc = exchange_module._semaphores()
    memory = exchange_module._Memory.create(libc, num_ranks, 7)
    path = f"/proc/self/fd/{memory.fd}"
    memories = [
        memory,
        *(exchange_module._Memory.join(path, num_ranks, 7) for _ in range(num_ranks - 1)),
    ]
    for one in memories:
        one.close_file()
    return [
        Exchange(
            torch,
            libc,
            memories[rank],
            rank,
            {peer: os.pidfd_open(os.getpid()) for peer in range(num_ranks) if peer != rank},
            timeout_s,
        )
        for rank in range(num_ranks)
    ]


@pytest.fixture
def exchanges(request: pytest.FixtureRequest) -> Iterator[list[Exchange]]:
    made = make_exchanges(request.param)
    yield made
    for one in made:
        one.close()


def in_threads(ranks: list[Exchange], act: Callable[[int, Exchange], Any]) -> list[Any]:
    """What each rank's act returned or raised, in order of rank."""
    outcomes: list[Any] = [None] * len(ranks)

    def run(rank: int) -> None:
        try:
            outcomes[rank] = act(rank, ranks[rank])
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return outcomes


def parts(num_ranks: int, numel: int, dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(numel)
    return [
        (torch.randn(numel, generator=generator) * 20).to(dtype).remainder(50)
        for _ in range(num_ranks)
    ]


@pytest.mark.parametrize("exchanges", [2, 3, 5], indirect=True)
def test_all_ranks_get_the_same_bits_of_the_right_result(exchanges: list[Exchange]) -> None:
    piece = exchanges[0]._sets[0].num_bytes // 8
    cases = [
        (numel, dtype, op)
        for numel in (0, 1, 1000, 4099, piece, piece + 1, 2 * piece + 5)
        for dtype, op in (
            (torch.float64, "sum"),
            (torch.float32, "sum"),
            (torch.int64, "sum"),
            (torch.uint8, "max"),
            (torch.bfloat16, "min"),
        )
    ]
    wide = {"sum": lambda values: values.sum(0), "max": lambda values: values.amax(0)}
    wide["min"] = lambda values: values.amin(0)

    def act(rank: int, mine: Exchange) -> list[Any]:
        results = []
        for numel, dtype, op in cases:
            tensor = parts(len(exchanges), numel, dtype)[rank]
            mine.all_reduce(tensor, op)
            results.append(tensor)
        return results

    outcomes = in_threads(exchanges, act)
    for at, (numel, dtype, op) in enumerate(cases):
        same = [outcome[at] for outcome in outcomes]
        assert all(torch.equal(same[0], other) for other in same[1:])
        expected = wide[op](torch.stack(parts(len(exchanges), numel, dtype)))
        torch.testing.assert_close(same[0], expected.to(dtype))


@pytest.mark.parametrize("exchanges", [3], indirect=True)
def test_a_factor_counts_before_the_sum_and_shapes_stay(exchanges: list[Exchange]) -> None:
    def act(rank: int, mine: Exchange) -> Any:
        tensor = torch.full((2, 3), float(3**rank), requires_grad=True)
        mine.all_reduce(tensor, factor=0.5)
        return tensor

    for tensor in in_threads(exchanges, act):
        assert torch.equal(tensor, torch.full((2, 3), 6.5))


@pytest.mark.parametrize("exchanges", [2], indirect=True)
def test_what_it_does_not_take(exchanges: list[Exchange]) -> None:
    takes = exchanges[0].takes
    assert takes(torch.ones(2, 2)) and takes(torch.ones((), dtype=torch.int32))
    assert not takes(torch.ones(2, 3).t())
    assert not takes(torch.ones(2, dtype=torch.complex64))
    assert not takes(torch.ones(2, dtype=torch.bool))
    assert not takes(torch.ones(2).to_sparse())
    assert not takes(torch.ones(2, device="meta"))


@pytest.mark.parametrize("exchanges", [3], indirect=True)
def test_ranks_that_bring_different_tensors_are_told_of_it(exchanges: list[Exchange]) -> None:
    def act(rank: int, mine: Exchange) -> None:
        if rank:
            mine.all_reduce(torch.ones(4), factor=0.5)
        mine.all_reduce(torch.ones(4))

    errors = in_threads(exchanges, act)
    assert [type(error) for error in errors] == [UsageError] * 3
    assert {str(error) for error in errors} == {
        "The ranks reduce different tensors together: rank 0: sum of 4 numbers of torch.float32;"
        " ranks 1-2: mean of gradients, 4 numbers of torch.float32."
    }


@pytest.mark.parametrize("exchanges", [3], indirect=True)
def test_who_waits_for_a_rank_that_has_left_raises(exchanges: list[Exchange]) -> None:
    def act(rank: int, mine: Exchange) -> Any:
        tensor = torch.ones(50_000)
        mine.all_reduce(tensor)  # in which all still take part, however late they look
        assert tensor[0] == 3
        if rank == 1:
            mine.leave()
            return None
        mine.all_reduce(torch.ones(1))

    outcomes = in_threads(exchanges, act)
    assert outcomes[1] is None
    for rank in (0, 2):
        assert isinstance(outcomes[rank], torch.distributed.DistNetworkError)
        # The first to notice leaves, too.
        assert "Connection closed by peer: rank" in str(outcomes[rank])
        assert f"while rank {rank} waited in a collective" in str(outcomes[rank])
    with pytest.raises(torch.distributed.DistNetworkError, match="has left its exchange before"):
        exchanges[0].all_reduce(torch.ones(1))


def test_waiting_ends_with_the_timeout() -> None:
    exchanges = make_exchanges(2, timeout_s=0.05)
    with pytest.raises(torch.distributed.DistNetworkError, match=r"after 0.05 s of waiting .* 1"):
        exchanges[0].all_reduce(torch.ones(1))


@pytest.mark.parametrize("exchanges", [2], indirect=True)
def test_an_exception_in_the_midst_ends_the_exchange_for_all(exchanges: list[Exchange]) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    exchanges[0]._wait = interrupt  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        exchanges[0].all_reduce(torch.ones(1))
    # Its part of the first sum had been written before: that sum is right.
    tensor = torch.ones(1)
    exchanges[1].all_reduce(tensor)
    assert tensor.item() == 2
    with pytest.raises(torch.distributed.DistNetworkError, match="rank 0 has left the run"):
        exchanges[1].all_reduce(tensor)


@pytest.mark.parametrize("exchanges", [3], indirect=True)
def test_an_exception_before_the_posts_keeps_nobody_waiting(exchanges: list[Exchange]) -> None:
    """Interrupted after its meeting has a number, a rank has told nobody of it."""

    class Interrupted(Exception):
        pass

    class Libc:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(libc, name)

        def sem_post(self, semaphore: Any) -> None:
            self.calls += 1
            if self.calls == 2:  # one rank has been told, the other has not
                raise Interrupted
            libc.sem_post(semaphore)

    libc, exchanges[0]._libc = exchanges[0]._libc, Libc()

    def act(rank: int, mine: Exchange) -> float:
        tensor = torch.ones(1)
        mine.all_reduce(tensor)
        mine.all_reduce(tensor)
        return float(tensor)

    first, *others = in_threads(exchanges, act)
    assert isinstance(first, Interrupted)
    for error in others:
        assert "has left the run" in str(error)


def test_memory_of_another_run_is_not_taken() -> None:
    libc = exchange_module._semaphores()
    memory = exchange_module._Memory.create(libc, 2, 7)
    with pytest.raises(ValueError, match="not the memory of this run"):
        exchange_module._Memory.join(f"/proc/self/fd/{memory.fd}", 2, 8)
    with pytest.raises(ValueError):  # too small
        exchange_module._Memory.join(f"/proc/self/fd/{memory.fd}", 3, 7)
    with pytest.raises(OSError):
        exchange_module._Memory.join("/dev/null", 2, 7)
    memory.close_file()


@pytest.mark.parametrize("num_ranks", [2, 7, MOST_RANKS])
def test_the_parts_of_the_memory_do_not_overlap(num_ranks: int) -> None:
    first, second = exchange_module._set_offsets(num_ranks)
    assert exchange_module._semaphore(num_ranks - 1, num_ranks - 1, num_ranks) < (
        exchange_module._left(num_ranks)
    )
    assert exchange_module._left(num_ranks) + 8 * num_ranks <= first
    assert second - first > num_ranks * exchange_module._slot_bytes(num_ranks)
    assert exchange_module._num_bytes(num_ranks) < 34 << 20
