"""A signal at any moment of the start, and of the end, ends the launcher without a traceback, and
leaves nothing behind. The moments are the rounds of a loop: they are what is tested.
"""

from __future__ import annotations

import signal
import time

import pytest

from tests.conftest import Completed, Running, Script, Start, marked_processes, wait_until

pytestmark = pytest.mark.slow

# The moments of a start, of which the first half is python's own and the last rounds find ranks.
MOMENTS_S = [number * 0.0175 for number in range(21)]

# How python begins what it says of itself when SIGINT comes too early.
COMPLAINTS = ("Fatal Python error: init_", "Could not import runpy module", "Traceback")


def said_by_launcher(err: str) -> str:
    """Return all but what ranks said: they may end with KeyboardInterrupt, as under python."""
    return "\n".join(line for line in err.splitlines() if not line.startswith(("[0] ", "[1] ")))


def was_interrupted_itself(err: str) -> bool:
    """Tell whether SIGINT came while python set itself up, before it had read a line of ours.

    Python then prints a traceback of its own files (exit by the signal), or, while it makes its
    streams, imports `site` or looks for what runs `-m`, a line of COMPLAINTS (exit code 1). Nobody
    can help that.
    """
    text = said_by_launcher(err)
    return any(words in text for words in COMPLAINTS) and "/launcher/" not in text


def was_swallowed(err: str) -> bool:
    """Tell whether python has lost SIGINT: what a callback of an import raises is only printed."""
    text = said_by_launcher(err)
    return "Exception ignored in: " in text and "KeyboardInterrupt" in text


def interrupt(running: Running, number: int) -> Completed:
    """Send the signal, and once more if python has lost it, as whoever types Ctrl-C would do."""
    running.send(number)
    wait_until(lambda: running.process.poll() is not None or was_swallowed(running.err), "its end")
    if running.process.poll() is None:
        running.send(number)
    return running.finish()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_at_any_moment_of_the_start_leaves_no_traceback_and_nothing_behind(
    method: str, start: Start, script: Script, suite_mark: str, name: str
) -> None:
    script("import signal\nwhile True: signal.pause()\n")
    number = signal.Signals[name]
    options = ("--start", method, "--nproc-per-node", "2", "--shutdown-timeout", "5")
    for moment in MOMENTS_S:
        running = start(*options, "script.py")
        time.sleep(moment)
        done = interrupt(running, number)
        when = f"after {moment * 1000:.0f} ms: {done.code} {done.err}"
        if name == "SIGINT" and was_swallowed(done.err):
            assert done.code in (1, -number, 128 + number), when
        elif name == "SIGINT" and was_interrupted_itself(done.err):
            assert done.code in (1, -number), when
        else:
            assert "Traceback" not in said_by_launcher(done.err), when
            # Before python has come to our code, the signal ends it as any other process.
            assert done.code in (-number, 128 + number), when
        wait_until(lambda: not marked_processes(suite_mark), "all of it is gone", 2.0)


def test_a_signal_at_any_moment_of_the_end_leaves_no_traceback_and_nothing_behind(
    method: str, start: Start, script: Script, suite_mark: str
) -> None:
    script("print('ready', flush=True)\n")
    for moment in [number * 0.004 for number in range(11)]:
        running = start("--start", method, "--nproc-per-node", "2", "script.py")
        running.wait_for("ready", 2)
        time.sleep(moment)
        running.send(signal.SIGTERM)
        done = running.finish()
        # It may have come when the launcher had everything behind it but its own last lines.
        assert done.code in (0, 143, -signal.SIGTERM), done.err
        assert "Traceback" not in done.err
        wait_until(lambda: not marked_processes(suite_mark), "all of it is gone", 2.0)


@pytest.mark.parametrize(
    "err",
    [
        "Fatal Python error: init_sys_streams: can't initialize sys standard streams\n"
        "Python runtime state: core initialized\nKeyboardInterrupt\n",
        'Traceback (most recent call last):\n  File "<frozen runpy>", line 189, in _run_module\n'
        "KeyboardInterrupt\n",
        "Could not import runpy module\nKeyboardInterrupt\n",
    ],
)
def test_what_python_says_of_an_interrupted_start_is_told_from_a_traceback_of_ours(
    err: str,
) -> None:
    assert was_interrupted_itself(err)
    assert not was_interrupted_itself(err + '  File "/x/launcher/cli.py", line 3, in main\n')
    assert not was_interrupted_itself("[0] Traceback (most recent call last):\n")
