"""The process that an engine such as mpirun has started as a rank: it stands for the rank.

The engine's processes of one host meet at a socket. The first one there makes the host's
supervisor, a process of its own; then all of them, the first too, hand over what makes them their
rank, and wait: signals are passed on, and in the end the rank's exit status is given to the engine.
What the supervisor makes of it is in crew.py.

Many of these start at once, on few processors: this file loads next to nothing (`_socket` without
`socket` above it is a fifth of what it takes).
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import signal

from launcher.system.bare import die_with_parent, fill_standard_descriptors, stat_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

# What each engine says of a process: its rank, and how many there are.
_RANK_VARIABLES = {
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "HOROVOD_RANK": "HOROVOD_SIZE",
    "PMI_RANK": "PMI_SIZE",
    "SLURM_PROCID": "SLURM_STEP_NUM_TASKS",
}

# How many of them are on this host. Slurm's is a list for all hosts: `1(x3)`, say.
_LOCAL_SIZES = (
    *("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
    "SLURM_STEP_TASKS_PER_NODE",
)

# The processes of engines that start ranks on a host, by the names that the kernel shows. All
# ranks of one host have one of them above themselves.
DAEMONS = frozenset(
    (
        *("mpirun", "mpiexec", "orterun", "orted", "prterun", "prted"),
        *("hydra_pmi_proxy", "slurmstepd", "horovodrun"),
    )
)

# Those whose end must be that of the processes that they have started: horovodrun tidies up itself.
OWNERS = DAEMONS - {"horovodrun"}

# Those of Open MPI, which sleep while they end a job.
_WITH_SLEEPS = frozenset(("mpirun", "mpiexec", "orterun", "orted"))
_NUDGE_S = 0.02
_MOST_NUDGES = 25

# What names a job where no daemon is seen: in a container, say.
_JOB_VARIABLES = (
    *("PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri", "HOROVOD_GLOO_RENDEZVOUS_PORT"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURMD_NODENAME"),
)

# How far above itself a process looks for the daemon: wrappers may stand between.
_MOST_WRAPPERS = 8

# Faults are the process's own, and nobody passes these on: they stop or kill at once, tell of
# children, or are python's business.
_NOT_PASSED_ON = frozenset(
    (
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT),
        *(signal.SIGTRAP, signal.SIGSYS, signal.SIGTTIN, signal.SIGTTOU),
    )
)

# What the two sides say; numbers and texts follow. The supervisor: the rank has ended with this
# code; go on alone, as if nobody had met; be the rank yourself.
HELLO, PASSED_SIGNAL = b"H", b"S"
EXITED, ALONE, IN_PLACE = b"E", b"A", b"P"

# Behind an exit code: another process has ended with an error just before.
AFTER_ANOTHER = b"+"

# MPICH's hydra kills all ranks if one that has initialised MPI ends without these words, which are
# said in MPI_Finalize: a rank of ours that has failed cannot say them any more.
_HYDRA_VARIABLE = "HYDI_CONTROL_FD"
_LAST_WORDS = b"cmd=finalize\n"

# How long the others leave it to one of them to say what has happened to the supervisor.
_SPEAKING_S = 1.0

# How many open files can be handed over, besides the standard streams: fewer than the kernel takes
# beside one message, because the fork server gets them with some more.
MOST_HANDED = 240

_MOST_BYTES = 4096

# Between two looks for a supervisor that is just being made.
_PAUSE_S = 0.001

_LOST_CODE = 128 + signal.SIGKILL


class GoOn(Exception):
    """This process does the work itself; nothing of its state has changed.

    reason: why it is to be a rank itself; "" where it need not be one.
    """

    def __init__(self, reason: str = "", port: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        # A free port for all of them; 0 where nobody has looked for one.
        self.port = port


def may_be_rank(environ: Mapping[str, str]) -> bool:
    """Tell whether an engine has started this process as one of several ranks.

    A worker of a launcher has inherited such variables, and is none.
    """
    if environ.get("RANK") and (
        environ.get("LAUNCHER_RUN_ID") or environ.get("TORCHELASTIC_RUN_ID")
    ):
        return False
    return any(
        environ.get(rank) and environ.get(size, "1") != "1"
        for rank, size in _RANK_VARIABLES.items()
    )


def is_alone_here(environ: Mapping[str, str]) -> bool:
    """Tell whether an engine has started one process on this host: there is nobody to meet.

    It may be the launcher of a node, which is decided by its options, before it is a rank.
    """
    counts = [environ[name] for name in _LOCAL_SIZES if environ.get(name)]
    return bool(counts) and all(
        count.partition("(")[0] == "1" and "," not in count for count in counts
    )


class Founder:
    """What the first process on the host has made: the supervisor, seen from inside."""

    def __init__(self, listener: _socket.socket) -> None:
        self._listener = listener

    def take_listener(self) -> socket.socket:
        """Return the socket at which the others come."""
        import socket

        return socket.socket(fileno=self._listener.detach())

    def leave_everything(self) -> None:
        """Make this process one of its own: no signal to the rank, no file of it."""
        os.setsid()
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != self._listener.fileno():
                os.closerange(int(name), int(name) + 1)


def meet(environ: Mapping[str, str], num_arguments: int) -> int | Founder:
    """Meet the others of this host, and stand for a rank until that has ended.

    Returns the exit code for the engine; in the supervisor's process, which the first one makes,
    the socket at which the others come. Raises GoOn where this process is to do the work itself.
    """
    name = _meeting_name(environ)
    if not name:
        raise GoOn("nothing here tells which processes belong together")
    fill_standard_descriptors()
    signals = _Signals()
    try:
        found = _find_supervisor(name)
        if isinstance(found, Founder):
            signals.end()
            found.leave_everything()
            return found
        connection, has_made_it = found
        try:
            _say_hello(connection, num_arguments)
            return _stand(connection, has_made_it, signals)
        finally:
            connection.close()
    except GoOn:
        signals.restore()
        raise
    except OSError as error:
        signals.restore()
        raise GoOn(f"the processes of this host cannot meet: {error.strerror or error}") from None


def _meeting_name(environ: Mapping[str, str]) -> str:
    """Return the name of the socket at which this job's processes of this host meet, or ""."""
    found = _daemon_above(os.getppid())
    if found:
        return f"\0launcher-{os.geteuid()}-{os.stat('/proc/self/ns/pid').st_ino}-{found}"
    names = [environ[name] for name in _JOB_VARIABLES if environ.get(name)]
    return f"\0launcher-{os.geteuid()}-{'-'.join(names)}"[:100] if names else ""


def _daemon_above(pid: int) -> str:
    """Return number and start of the engine's daemon above us; "" where none is seen."""
    for _ in range(_MOST_WRAPPERS):
        name, fields = _stat(pid)
        if name in DAEMONS:
            return f"{pid}-{fields[19]}"
        if pid <= 1 or not fields:
            return ""
        pid = int(fields[1])
    return ""


def _stat(pid: int) -> tuple[str, list[str]]:
    """Return a process's name, and its fields in proc(5) from the third on."""
    try:
        _, _, name, *fields = stat_fields(f"/proc/{pid}/stat")
    except OSError:
        return "", []
    return name.decode(errors="replace"), [field.decode() for field in fields]


def _find_supervisor(name: str) -> Founder | tuple[_socket.socket, bool]:
    """Connect to the supervisor; who finds none makes it.

    Returns the connection, and whether the supervisor was made here; in the supervisor's own
    process, the founder.
    """
    has_made_it = False
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            connection.connect(name)
        except ConnectionRefusedError:
            connection.close()
        else:
            if _peer_of(connection)[1] != os.geteuid():
                connection.close()
                raise GoOn("another user has taken the name at which they would meet")
            return connection, has_made_it
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            listener.bind(name)
        except OSError:  # another was quicker: it is about to listen
            listener.close()
            select.select((), (), (), _PAUSE_S)
            continue
        try:
            is_supervisor = _fork_orphan()
            if is_supervisor:
                listener.listen(1024)  # here, and so the others see this process's number
        except OSError:  # nobody would ever answer there
            listener.close()
            raise
        if is_supervisor:
            return Founder(listener)
        listener.close()
        has_made_it = True


def _fork_orphan() -> bool:
    """Make a process that nobody finds below this one; return whether this is it.

    Slurm with proctrack/linuxproc sends signals to all that hangs below its daemon from parent to
    child, but for processes with a space in their short names: to us, the fork server, perhaps the
    ranks. They are to come to the processes that it has started, and to nobody else.
    """
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return False
    try:
        is_orphan = os.fork() == 0
    except OSError:
        os._exit(1)
    if not is_orphan:
        os._exit(0)
    return True


def _peer_of(connection: _socket.socket) -> tuple[int, int]:
    """Return process and user at the other end."""
    data = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little")


def _say_hello(connection: _socket.socket, num_arguments: int) -> None:
    """Hand over every open file that a program executed here would inherit.

    Where they are too many, only how many they are: then there can be no supervisor.
    """
    mine = (*(0, 1, 2), connection.fileno())
    numbers = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) not in mine and os.get_inheritable(int(name)):
                numbers.append(int(name))
        except OSError:  # the folder that is being read
            continue
    numbers.sort()
    text = " ".join(map(str, (num_arguments, _usable_gpus(), *numbers)))
    handed = numbers if len(numbers) <= MOST_HANDED else []
    packed = b"".join(fd.to_bytes(4, "little") for fd in (0, 1, 2, *handed))
    connection.sendmsg([HELLO + text.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def _usable_gpus() -> str:
    """Return the numbers of the NVIDIA devices that this process may open, "-" for none.

    A cgroup may allow it other ones than its neighbours, under the same CUDA_VISIBLE_DEVICES.
    """
    numbers = [name[6:] for name in os.listdir("/dev") if name.startswith("nvidia")]
    allowed = [
        number
        for number in numbers
        if number.isdigit() and os.access(f"/dev/nvidia{number}", os.R_OK | os.W_OK)
    ]
    return ",".join(sorted(allowed)) or "-"


def _stand(connection: _socket.socket, has_made_it: bool, signals: _Signals) -> int:
    """Pass signals on until the supervisor says how it ends; return the exit code."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(signals.read_end, select.POLLIN)
    daemon = _watch_daemon()
    if daemon is not None:
        poller.register(daemon, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == signals.read_end:
                _pass_on(connection, signals)
            elif fd == daemon:
                os.kill(os.getpid(), signal.SIGKILL)  # the supervisor sees it, and ends the rank
            else:
                word = _receive(connection)
                if word[:1] == EXITED:
                    _say_last_words()
                    if word.endswith(AFTER_ANOTHER):
                        _hurry_mpirun(signals)
                    # The supervisor ends first: what is left of it when the last of us has ended
                    # is killed by Slurm, which waits a second for that.
                    select.select((connection,), (), (), _SPEAKING_S)
                    return int(word[1:].rstrip(AFTER_ANOTHER))
                if word[:1] in (ALONE, IN_PLACE):
                    if daemon is not None:
                        os.close(daemon)
                    port, _, reason = word[1:].decode().partition(" ")
                    raise GoOn(reason, int(port or 0))
                return _mourn(_peer_of(connection)[0] if has_made_it else 0)


def _receive(connection: _socket.socket) -> bytes:
    try:
        return connection.recv(_MOST_BYTES)
    except ConnectionResetError:
        return b""


def _watch_daemon() -> int | None:
    """Return what becomes readable when the engine's daemon has ended.

    Where a shell or another program of the user's stands between, that one is in charge. None
    there, and for horovodrun, which tidies up by itself.
    """
    parent = os.getppid()
    if _stat(parent)[0] not in OWNERS:
        return None
    try:
        return os.pidfd_open(parent)
    except OSError:  # it has just ended, or the kernel is older than 5.3
        if not die_with_parent(signal.SIGKILL, parent):
            os.kill(os.getpid(), signal.SIGKILL)
        return None


def _pass_on(connection: _socket.socket, signals: _Signals) -> None:
    numbers = signals.take()
    while numbers:
        number, numbers = numbers[0], numbers[1:]
        try:
            connection.send(PASSED_SIGNAL + str(number).encode())
        except OSError:
            return  # the supervisor has gone: that is seen at once
        if number == signal.SIGTSTP:
            numbers += signals.take()
            # The engine may look whether we have stopped. If we are to go on already, nobody would
            # tell us once more.
            if signal.SIGCONT not in numbers:
                os.kill(os.getpid(), signal.SIGSTOP)


def _say_last_words() -> None:
    """Tell MPICH's hydra that nothing more comes from this rank; others need not be told."""
    if _HYDRA_VARIABLE not in os.environ or not os.environ.get("PMI_FD", "").isdigit():
        return
    try:
        pmi = _socket.socket(fileno=os.dup(int(os.environ["PMI_FD"])))
    except OSError:
        return
    try:
        pmi.settimeout(_SPEAKING_S)
        pmi.send(_LAST_WORDS)
        pmi.recv(_MOST_BYTES)
    except OSError:
        pass  # the rank has said them
    finally:
        pmi.close()


def _hurry_mpirun(signals: _Signals) -> None:
    """Keep Open MPI's mpirun from sleeping while it ends a job of which another rank has failed.

    It sends SIGCONT and SIGTERM to the other ranks and sleeps for a second after each of them, once
    for all. Whatever it hears of a child ends such a sleep: SIGCHLD costs it nothing. With 2, 4 and
    8 ranks it had ended 0.03 to 0.05 s after the failed one, each time; else after 0 to 2 s.
    """
    parent = os.getppid()
    if _stat(parent)[0] not in _WITH_SLEEPS:
        return
    seen = b""
    for _ in range(_MOST_NUDGES):
        select.select((signals.read_end,), (), (), _NUDGE_S)
        seen += signals.take()
        if signal.SIGTERM in seen:
            break
        if signal.SIGCONT in seen:
            os.kill(parent, signal.SIGCHLD)
    select.select((), (), (), _NUDGE_S)


def _mourn(supervisor_pid: int) -> int:
    """Say that the supervisor has gone without a word; return the exit code.

    supervisor_pid: 0 where another process says so.
    """
    if not supervisor_pid:
        select.select((), (), (), _SPEAKING_S)
        return _LOST_CODE
    text = f"launcher: the supervisor of this host's ranks (pid {supervisor_pid}) was killed\n"
    try:
        os.write(2, text.encode())
    except OSError:
        pass
    return _LOST_CODE


class _Signals:
    """The signals that come to this process while it stands for a rank."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self._write_end, False)
        self._old: dict[int, Callable[..., object] | int | None] = {}
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for signum in signal.valid_signals() - _NOT_PASSED_ON:
            # What is ignored stays so, for the rank too: SIGHUP under nohup.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._old[signum] = signal.signal(signum, _note)

    def take(self) -> bytes:
        """Return the numbers of those that have come."""
        try:
            return os.read(self.read_end, 4096)
        except BlockingIOError:
            return b""

    def end(self) -> None:
        """Leave everything as it was."""
        signal.set_wakeup_fd(-1)
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def restore(self) -> None:
        """Leave everything as it was; what has come meanwhile comes again."""
        self.end()
        numbers = self.take()
        os.close(self.read_end)
        os.close(self._write_end)
        for number in numbers:
            signal.raise_signal(number)


def _note(signum: int, frame: object) -> None:
    """Do nothing: the number has been written where it is read."""
