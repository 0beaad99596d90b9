"""The process that stands for a rank: where it looks for the others, what it passes on, its end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from launcher.attached import proxy
from launcher.attached.proxy import Founder, GoOn


@pytest.fixture
def signals() -> Iterator[proxy._Signals]:
    """The signals of this process, as long as it stands for a rank."""
    taken = proxy._Signals()
    yield taken
    taken.restore()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the supervisor's end of a connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(10.0)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine above this process."""
    monkeypatch.setattr(proxy, "_stat", lambda pid: ("sh", []))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, True),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"SLURM_PROCID": "0"}, False),  # a batch script
        ({}, False),
        # Workers of a launcher, and of torchrun, that have inherited an engine's variables.
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "RANK": "1", "LAUNCHER_RUN_ID": "id"}, False),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "id"}, False),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "LAUNCHER_RUN_ID": "id"}, True),
    ],
)
def test_who_may_be_a_rank_is_told_from_variables(environ: dict[str, str], expected: bool) -> None:
    assert proxy.may_be_rank(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, False),
        ({"MPI_LOCALNRANKS": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x3)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x3),2"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1"}, False),
        # Of mpirun's daemons in a job of Slurm's, and of its ranks.
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, False),
    ],
)
def test_a_process_that_is_alone_on_its_host_has_nobody_to_meet(
    environ: dict[str, str], expected: bool
) -> None:
    assert proxy.is_alone_here(environ) == expected


def processes(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these be the processes above this one, the nearest first; with the numbers from 100."""

    def look(pid: int) -> tuple[str, list[str]]:
        at = pid - 100
        if at >= len(names):
            return "", []
        return names[at], ["S", str(pid + 1), *["0"] * 17, f"began{at}"]

    monkeypatch.setattr(os, "getppid", lambda: 100)
    monkeypatch.setattr(proxy, "_stat", look)


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        (("mpirun",), "100-began0"),
        (("bash", "numactl", "orted", "init"), "102-began2"),
        (("slurmstepd", "init"), "100-began0"),
        (("bash", "sshd", "init"), ""),
        ((), ""),
        ((*["bash"] * 20, "mpirun"), ""),
    ],
)
def test_processes_meet_by_the_daemon_above_them(
    monkeypatch: pytest.MonkeyPatch, above: tuple[str, ...], expected: str
) -> None:
    processes(monkeypatch, *above)
    name = proxy._meeting_name({})
    assert name.endswith(f"-{expected}") if expected else name == ""
    assert name[:1] in ("", "\0")


def test_without_a_daemon_they_meet_by_what_names_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, "bash")
    names = [
        proxy._meeting_name({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": step}) for step in ("0", "1")
    ]
    assert names[0] != names[1]
    long = proxy._meeting_name({"OMPI_MCA_orte_hnp_uri": "7.0;tcp://" + "10.0.0.1," * 50})
    assert len(long.encode()) <= 100
    assert proxy._meeting_name({"HOME": "/root"}) == ""


@pytest.mark.usefixtures("no_daemon")
def test_without_any_name_each_goes_on_by_itself() -> None:
    with pytest.raises(GoOn, match="nothing here tells which processes belong together"):
        proxy.meet({}, 0)


def test_a_process_is_found_in_proc_also_under_an_odd_name() -> None:
    name, fields = proxy._stat(os.getpid())
    assert name
    assert fields[1] == str(os.getppid())
    assert proxy._stat(0) == ("", [])


def test_the_first_one_makes_a_supervisor_and_then_meets_it_like_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "\0launcher-test-" + os.urandom(8).hex()
    kept: list[socket.socket] = []

    def fork_orphan() -> bool:
        """Be the parent, and listen as the supervisor would."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                with socket.socket(fileno=os.dup(fd)) as found:
                    if found.getsockname() == name.encode():
                        kept.append(socket.socket(fileno=found.detach()))
                        kept[-1].listen()
            except OSError:
                continue
        return False

    monkeypatch.setattr(proxy, "_fork_orphan", fork_orphan)
    found = proxy._find_supervisor(name)
    assert not isinstance(found, Founder)
    connection, has_made_it = found
    assert has_made_it
    second = proxy._find_supervisor(name)
    assert not isinstance(second, Founder)
    assert not second[1]
    for each in (connection, second[0], *kept):
        each.close()


def test_in_the_supervisors_process_the_founder_has_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "\0launcher-test-" + os.urandom(8).hex()
    monkeypatch.setattr(os, "fork", lambda: 0)
    founder = proxy._find_supervisor(name)
    assert isinstance(founder, Founder)
    with founder.take_listener() as listener:
        assert listener.getsockname() == name.encode()
        assert not listener.get_inheritable()


def test_a_name_is_free_again_when_no_supervisor_could_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would answer there, and all others would wait for ever."""
    name = "\0launcher-test-" + os.urandom(8).hex()

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(proxy, "_meeting_name", lambda environ: name)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(GoOn, match="cannot meet: Resource temporarily unavailable") as caught:
        proxy.meet({}, 0)
    assert caught.value.port == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(name)
    assert handlers == [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.usefixtures("no_daemon")
@pytest.mark.parametrize(
    ("word", "code"), [(b"E0", 0), (b"E3", 3), (b"E137", 137), (b"E3+", 3), (b"E0+", 0)]
)
def test_it_ends_as_its_rank_has_when_the_supervisor_has_gone(
    signals: proxy._Signals, ends: tuple[socket.socket, socket.socket], word: bytes, code: int
) -> None:
    ours, theirs = ends
    theirs.send(word)
    theirs.close()
    assert proxy._stand(ours, False, signals) == code


@pytest.mark.usefixtures("no_daemon")
@pytest.mark.parametrize(
    ("word", "reason", "port"),
    [
        (b"A", "", 0),
        (b"P0 a container", "a container", 0),
        (b"P4000 limits: two", "limits: two", 4000),
    ],
)
def test_it_goes_on_by_itself_where_it_is_told_so(
    signals: proxy._Signals,
    ends: tuple[socket.socket, socket.socket],
    word: bytes,
    reason: str,
    port: int,
) -> None:
    ours, theirs = ends
    theirs.send(word)
    with pytest.raises(GoOn) as caught:
        proxy._stand(ours, False, signals)
    assert (caught.value.reason, caught.value.port) == (reason, port)


@pytest.mark.usefixtures("no_daemon")
def test_signals_are_passed_on_in_their_order(
    signals: proxy._Signals, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    words: list[bytes] = []

    def supervise() -> None:
        for _ in range(3):
            words.append(theirs.recv(100))
        theirs.send(b"E0")
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=supervise)
    thread.start()
    for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN):
        signal.raise_signal(signum)
    assert proxy._stand(ours, False, signals) == 0
    thread.join(10.0)
    assert words == [b"S%d" % n for n in (signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN)]


@pytest.mark.parametrize(
    ("came", "stops"),
    [
        ([signal.SIGTSTP], 1),
        ([signal.SIGCONT, signal.SIGTSTP], 1),
        ([signal.SIGTSTP, signal.SIGCONT], 0),
    ],
)
def test_it_stops_itself_unless_it_is_to_go_on_already(
    signals: proxy._Signals,
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    came: list[int],
    stops: int,
) -> None:
    ours, theirs = ends
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signum: sent.append((pid, signum)))
    for signum in came:
        signal.raise_signal(signum)
    proxy._pass_on(ours, signals)
    assert [theirs.recv(100) for _ in came] == [b"S%d" % signum for signum in came]
    assert sent == [(os.getpid(), signal.SIGSTOP)] * stops


@pytest.mark.usefixtures("no_daemon")
def test_a_supervisor_that_was_killed_is_mourned_by_its_parent_alone(
    signals: proxy._Signals,
    ends: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ours, theirs = ends
    theirs.close()
    monkeypatch.setattr(proxy, "_SPEAKING_S", 0.01)
    assert proxy._stand(ours, False, signals) == 137
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(proxy, "_peer_of", lambda connection: (4711, 0))
    assert proxy._stand(ours, True, signals) == 137
    assert "the supervisor of this host's ranks (pid 4711) was killed" in capfd.readouterr().err


def test_what_was_ignored_stays_ignored_and_all_is_left_as_it_was() -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    came: list[int] = []
    own = signal.signal(signal.SIGUSR2, lambda signum, frame: came.append(signum))
    before = set(os.listdir("/proc/self/fd"))
    try:
        signals = proxy._Signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGUSR2)
        assert came == []
        signals.restore()
        # It has come while this process stood for a rank that it is to be itself.
        assert came == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGHUP, ignored)
        signal.signal(signal.SIGUSR2, own)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("no_daemon")
def test_a_process_that_goes_on_by_itself_has_no_file_more_than_before(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    before = set(os.listdir("/proc/self/fd"))
    copy = ours.dup()
    monkeypatch.setattr(proxy, "_stat", lambda pid: ("mpirun", []))
    monkeypatch.setattr(proxy, "_meeting_name", lambda environ: "name")
    monkeypatch.setattr(proxy, "_find_supervisor", lambda name: (copy, 0))
    theirs.send(b"P0 a container")
    with pytest.raises(GoOn):
        proxy.meet({}, 0)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("environ", "says"), [({"HYDI_CONTROL_FD": "5"}, True), ({}, False)])
def test_mpich_hears_that_a_rank_has_nothing_more_to_say(
    monkeypatch: pytest.MonkeyPatch,
    ends: tuple[socket.socket, socket.socket],
    environ: dict[str, str],
    says: bool,
) -> None:
    ours, theirs = ends
    monkeypatch.setenv("PMI_FD", str(ours.fileno()))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    theirs.send(b"cmd=finalize_ack\n")
    proxy._say_last_words()
    theirs.setblocking(False)
    if says:
        assert theirs.recv(100) == b"cmd=finalize\n"
    else:
        with pytest.raises(BlockingIOError):
            theirs.recv(100)


def test_a_rank_that_has_said_its_last_words_itself_leaves_none(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    theirs.close()
    monkeypatch.setenv("PMI_FD", str(ours.fileno()))
    monkeypatch.setenv("HYDI_CONTROL_FD", "5")
    proxy._say_last_words()
