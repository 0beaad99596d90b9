"""The supervisor's side of an engine's processes, with this process at both ends of the sockets."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from launcher.attached import crew as crew_module
from launcher.attached import proxy
from launcher.attached.crew import Crew
from launcher.attached.obstacles import Facts, find_obstacle
from launcher.events import Event, TaskLost, TaskSignalled
from launcher.system.loop import Loop

NAME = "\0launcher-test-"


class Host:
    """A crew, and processes that come to it: all of them are this one, under other ranks."""

    def __init__(self, expected: int) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(NAME + os.urandom(8).hex())
        listener.listen(100)
        self.crew = Crew(listener, expected)
        self.name = listener.getsockname()
        self.came: list[socket.socket] = []
        # Rank of each process in the order in which they come.
        self.ranks: list[int] = []

    def connect(self) -> socket.socket:
        """Let a process come that has not said anything yet."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(10.0)
        self.came.append(connection)
        connection.connect(self.name)
        return connection

    def come(self, rank: int) -> socket.socket:
        """Let a process come and hand everything over."""
        connection = self.connect()
        self.ranks.append(rank)
        proxy._say_hello(connection, 0)
        return connection

    def read_facts(self, pid: int, num_arguments: int) -> Facts:
        """Say of the process that has come next that an engine has started it."""
        rank = str(self.ranks.pop(0))
        size = str(self.crew.expected)
        environ = {
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": size,
            "OMPI_COMM_WORLD_LOCAL_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": size,
        }
        return Facts(pid, environ=environ)

    def close(self) -> None:
        for connection in self.came:
            connection.close()
        for link in self.crew.links:
            link.connection.close()
            for fd in link._descriptors:
                os.close(fd)
        self.crew._listener.close()


@pytest.fixture
def make_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Host]]:
    """Make a host on which so many processes are to come."""
    hosts: list[Host] = []

    def make(expected: int) -> Host:
        hosts.append(Host(expected))
        monkeypatch.setattr(crew_module, "read_facts", hosts[-1].read_facts)
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crew waits for nobody who is not there."""
    for name in ("_SAY_AFTER_S", "_LATE_S", "_FIRST_S"):
        monkeypatch.setattr(crew_module, name, 0.01)


def be_quiet(number: str) -> None:
    """Take what is to be said while others are waited for."""


def turn(loop: Loop) -> list[Event]:
    events: list[Event] = []
    loop.turn(events.append)
    return events


def test_processes_are_put_in_the_order_of_their_local_ranks(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(3)
    for rank in (2, 0, 1):
        host.come(rank)
    assert host.crew.gather(be_quiet)
    assert [link.place.rank for link in host.crew.links] == [0, 1, 2]
    assert host.crew.are_complete


def test_when_all_have_come_the_next_launch_may_meet_under_the_same_name(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(1)
    host.come(0)
    assert host.crew.gather(be_quiet)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(host.name)


@pytest.mark.usefixtures("no_patience")
def test_who_does_not_come_is_waited_for_and_that_is_said_once(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(2)
    host.come(0)
    said: list[str] = []
    assert not host.crew.gather(said.append, 0.05)
    assert said == ["1 of 2"]
    assert not host.crew.are_complete


@pytest.mark.usefixtures("no_patience")
def test_one_that_ends_before_it_has_said_a_word_is_nobody(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(1)
    host.connect().close()
    assert not host.crew.gather(be_quiet, 0.05)
    assert host.crew.links == []


def test_two_with_the_same_rank_are_no_crew(make_host: Callable[[int], Host]) -> None:
    host = make_host(2)
    host.come(1)
    host.come(1)
    assert not host.crew.gather(be_quiet)


def test_when_all_that_have_come_have_gone_there_is_nobody_to_wait_for(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(2)
    host.come(0).close()
    assert not host.crew.gather(be_quiet)
    assert host.crew.have_all_gone


def test_what_is_handed_over_is_what_the_process_would_have_let_a_program_inherit(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(1)
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    host.come(0)
    assert host.crew.gather(be_quiet)
    (link,) = host.crew.links
    task = link.make_task(("--lr", "1"))
    assert task.args == ("--lr", "1")
    assert task.inheritance.numbers.count(write_end) == 1
    assert read_end not in task.inheritance.numbers
    handed = dict(zip(task.inheritance.numbers, task.handed[1:], strict=True))
    os.write(handed[write_end], b"x")
    assert os.read(read_end, 10) == b"x"
    assert os.path.sameopenfile(task.streams[2], 2)
    assert os.stat(task.handed[0]).st_ino == os.stat(".").st_ino
    for fd in (read_end, write_end):
        os.close(fd)


@pytest.mark.parametrize("number", [proxy.MOST_HANDED, proxy.MOST_HANDED + 1, 300])
def test_more_open_files_than_can_travel_are_an_obstacle_and_no_silence(
    make_host: Callable[[int], Host], number: int
) -> None:
    host = make_host(1)
    already = [int(name) for name in os.listdir("/proc/self/fd") if _is_inheritable(int(name))]
    null = os.open(os.devnull, os.O_RDONLY)
    more = number - len([fd for fd in already if fd > 2])
    fds = [os.dup(null) for _ in range(more)]
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        host.come(0)
    finally:
        for fd in (null, *fds):
            os.close(fd)
    assert host.crew.gather(be_quiet)
    obstacle = find_obstacle({0: host.crew.links[0].facts})
    expected = "" if number <= proxy.MOST_HANDED else "rank 0 has more open files than"
    assert obstacle.startswith(expected) and bool(obstacle) == bool(expected)


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def test_more_open_files_than_one_process_may_have_keep_the_ranks_apart(
    make_host: Callable[[int], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(2)
    host.come(0)
    host.come(1)
    monkeypatch.setattr(crew_module, "allow_open_files", lambda: 64)
    assert host.crew.gather(be_quiet)
    assert host.crew.find_file_limit().startswith("they need ")
    assert host.crew.find_file_limit().endswith("which may have 64")


def test_as_many_files_as_the_administrator_allows_may_be_open(
    make_host: Callable[[int], Host],
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    host = make_host(1)
    host.come(0)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        assert host.crew.gather(be_quiet)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert host.crew.find_file_limit() == ""


def test_signals_and_losses_become_events(make_host: Callable[[int], Host]) -> None:
    host = make_host(2)
    first, second = host.come(0), host.come(1)
    first.send(proxy.PASSED_SIGNAL + b"10")  # before there is anybody to take it
    assert host.crew.gather(be_quiet)
    with Loop([]) as loop:
        host.crew.open(loop)
        assert turn(loop) == [TaskSignalled(0, signal.SIGUSR1)]
        second.send(proxy.PASSED_SIGNAL + b"15")
        assert turn(loop) == [TaskSignalled(1, signal.SIGTERM)]
        second.close()
        assert turn(loop) == [TaskLost(1)]
        assert host.crew.links[1].has_gone and not host.crew.have_all_gone


def test_a_process_that_says_nothing_has_not_gone(make_host: Callable[[int], Host]) -> None:
    host = make_host(1)
    connection = host.come(0)
    assert host.crew.gather(be_quiet)
    (link,) = host.crew.links
    assert link.receive() == 0
    connection.close()
    assert link.receive() is None


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize(("expected", "port"), [(1, b"4000"), (2, b"5000")])
def test_processes_that_are_ranks_themselves_are_told_why_and_at_which_port(
    make_host: Callable[[int], Host], expected: int, port: bytes
) -> None:
    host = make_host(expected)
    first = host.come(0)
    host.crew.send_away("a container", 4000, 5000)
    host.crew.dismiss(0)
    assert first.recv(100) == proxy.IN_PLACE + port + b" a container"


@pytest.mark.usefixtures("no_patience")
def test_one_that_comes_after_the_others_were_sent_away_is_not_told_to_end_well(
    make_host: Callable[[int], Host],
) -> None:
    """It finds no supervisor, makes another one, and is sent away as well."""
    host = make_host(2)
    host.come(0)
    host.crew.send_away("a container", 0)
    try:
        late = host.come(1)
    except ConnectionRefusedError:
        return
    host.crew.dismiss(0)
    assert late.recv(100) == b""
    pytest.fail("it has met a supervisor that has nothing to do for it")


def test_processes_that_are_no_ranks_are_told_so(make_host: Callable[[int], Host]) -> None:
    host = make_host(1)
    only = host.come(0)
    host.crew.send_away("")
    host.crew.dismiss(0)
    assert only.recv(100) == proxy.ALONE


def end_with(connection: socket.socket, words: list[bytes], order: list[int], number: int) -> None:
    """Be a process that ends as soon as it is told how."""
    words[number] = connection.recv(100)
    order.append(number)
    connection.close()


def tell(host: Host, exit_code: int, first_rank: int | None) -> tuple[list[bytes], list[int]]:
    """Dismiss a crew; return what each process was told, and the order in which they have ended."""
    words, order = [b""] * len(host.came), list[int]()
    threads = [
        threading.Thread(target=end_with, args=(connection, words, order, number))
        for number, connection in enumerate(host.came)
    ]
    for thread in threads:
        thread.start()
    host.crew.dismiss(exit_code, first_rank)
    for thread in threads:
        thread.join(10.0)
    return words, order


@pytest.mark.parametrize(
    ("codes", "exit_code", "first_rank", "expected"),
    [
        ((0, 0, 0), 0, None, [b"E0", b"E0", b"E0"]),
        ((-15, 3, -15), 3, 1, [b"E3+", b"E3", b"E3+"]),
        ((0, -9, None), 137, 1, [b"E0+", b"E137", b"E137+"]),
        ((None, None, -11), 139, 2, [b"E139+", b"E139+", b"E139"]),
        # A stop that somebody asked for: nobody is the cause.
        ((-15, 0, None), 143, None, [b"E143", b"E0", b"E143"]),
        # A mistake in the options: no rank was ever started.
        ((None, None, None), 2, None, [b"E2", b"E2", b"E2"]),
    ],
)
def test_each_process_ends_as_its_rank_and_that_of_the_first_cause_before_the_others(
    make_host: Callable[[int], Host],
    codes: tuple[int | None, ...],
    exit_code: int,
    first_rank: int | None,
    expected: list[bytes],
) -> None:
    host = make_host(len(codes))
    for rank in range(len(codes)):
        host.come(rank)
    assert host.crew.gather(be_quiet)
    for rank, code in enumerate(codes):
        if code is not None:
            host.crew.note_end(rank, code)
    words, order = tell(host, exit_code, first_rank)
    assert words == expected
    if first_rank is not None:
        assert order[0] == first_rank


def test_a_mistake_that_is_found_before_all_have_come_is_told_to_all(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(3)
    for rank in range(3):
        host.come(rank)
    assert tell(host, 2, None)[0] == [b"E2"] * 3


@pytest.mark.usefixtures("no_patience")
def test_the_process_of_the_first_cause_need_not_be_there_any_more(
    make_host: Callable[[int], Host],
) -> None:
    host = make_host(2)
    first, second = host.come(0), host.come(1)
    assert host.crew.gather(be_quiet)
    first.close()
    host.crew.dismiss(137, 0)
    assert second.recv(100) == b"E137+"


def test_a_crew_is_dismissed_once(make_host: Callable[[int], Host]) -> None:
    host = make_host(1)
    only = host.come(0)
    assert host.crew.gather(be_quiet)
    host.crew.dismiss(0)
    host.crew.dismiss(1)
    assert only.recv(100) == b"E0"
    only.setblocking(False)
    with pytest.raises(BlockingIOError):
        only.recv(100)
