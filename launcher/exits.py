"""Exit statuses in words: what `-9` or `127` means for a person, and what a shell would show.

Return codes are in subprocess form: an exit code, or minus the number of the signal. Pure.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # `signal` makes enumerations of it, which takes a rank 2 ms

# What the usual reason for a signal is, in a training job. Said as a possibility, never as a fact.
_SIGNAL_HINTS = {
    signal.SIGKILL: "often the kernel's out-of-memory killer",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "often a full /dev/shm",
    signal.SIGABRT: "a failed assertion in native code",
    signal.SIGILL: "an instruction that this CPU does not have",
    signal.SIGFPE: "a division error in native code",
    signal.SIGXCPU: "the limit of CPU time, which `ulimit -t` shows",
    signal.SIGXFSZ: "the limit of a file's size, which `ulimit -f` shows",
}

_CODE_HINTS = {2: "often a usage error", 126: "cannot be executed", 127: "command not found"}


def signal_name(signum: int) -> str:
    """Return `SIGTERM` for 15; a number without a name is shown as it is."""
    from signal import Signals

    try:
        return Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def describe(returncode: int, *, guess: bool = True) -> str:
    """Return the exit in words: `exit code 3`, `killed by SIGSEGV (11), a crash in native code`.

    `guess=False` leaves out the usual reason, for when the true one is known.
    """
    if returncode >= 0:
        hint = _CODE_HINTS.get(returncode, "") if guess else ""
        return f"exit code {returncode}" + (f" ({hint})" if hint else "")
    signum = -returncode
    hint = _SIGNAL_HINTS.get(signum, "") if guess else ""  # type: ignore[call-overload]
    return f"killed by {signal_name(signum)} ({signum})" + (f", {hint}" if hint else "")


def shell_code(returncode: int) -> int:
    """Return what a shell shows for this exit: the code itself, or 128 + signal number."""
    return returncode if returncode >= 0 else 128 - returncode


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that python gives to a script that ends with this exception."""
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    if not isinstance(error.code, int):
        return 1
    is_long = -(1 << 63) <= error.code < 1 << 63  # python takes any other number for -1
    return error.code & 0xFF if is_long else 0xFF


def from_wait_status(si_code: int, si_status: int) -> int:
    """Turn the two fields of `os.waitid` into a return code in subprocess form."""
    return si_status if si_code == os.CLD_EXITED else -si_status
