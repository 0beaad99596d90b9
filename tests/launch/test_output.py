"""What workers print: whole lines with their prefix on the screen, the exact bytes in the log
files, nothing lost.
"""

from __future__ import annotations

import random
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run, Script, Start, Terminal, command, run_dirs, wait_until

LogOf = Callable[..., bytes]


@pytest.fixture
def log_of(only_run_dir: Callable[[], Path]) -> LogOf:
    return lambda rank, stream="out": (
        only_run_dir() / "logs" / f"rank_{rank:02d}.{stream}"
    ).read_bytes()


@pytest.mark.slow
def test_every_line_has_its_ranks_prefix_padded_to_the_widest(
    method: str, run: Run, script: Script
) -> None:
    script("import os\nprint('hello')\n")
    done = run("--start", method, "--nproc-per-node", "12", "script.py")
    assert done.lines == sorted(f"[{rank:2d}] hello" for rank in range(12))


@pytest.mark.slow
def test_stdout_and_stderr_stay_apart_on_the_screen_and_in_the_files(
    method: str, run: Run, script: Script, log_of: LogOf
) -> None:
    script(
        "import sys\nprint('to out')\nprint('to err', file=sys.stderr)\nsys.stdout.write('no"
        " newline at the end')\n"
    )
    done = run("--start", method, "script.py")
    assert done.out == "[0] to out\n[0] no newline at the end\n"
    assert done.err == "[0] to err\n"
    assert log_of(0) == b"to out\nno newline at the end"
    assert log_of(0, "err") == b"to err\n"


@pytest.mark.slow
def test_no_line_of_many_chatty_ranks_is_torn_lost_or_out_of_order(
    run: Run, script: Script, log_of: LogOf
) -> None:
    script(
        "import os, sys\nrank = os.environ['RANK']\n"
        "for i in range(20000):\n"
        "    sys.stdout.write(f'{rank} {i} ' + 'x' * (i % 97) + '\\n')\n"
        "    if i % 10 == 0: sys.stderr.write(f'{rank} {i}\\n')\n"
    )
    done = run("--nproc-per-node", "8", "script.py", env={"PYTHONUNBUFFERED": "0"})
    assert done.code == 0
    for stream, text in (("out", done.out), ("err", done.err)):
        for rank in range(8):
            shown = "".join(
                line[4:] + "\n" for line in text.split("\n") if line.startswith(f"[{rank}] ")
            )
            assert shown.encode() == log_of(rank, stream)
    assert len(done.out.splitlines()) == 160000
    assert len(done.err.splitlines()) == 16000
    assert log_of(3).split(b"\n")[19999] == b"3 19999 " + b"x" * (19999 % 97)


@pytest.mark.slow
def test_bytes_that_are_no_text_pass_unchanged(
    method: str, run: Run, script: Script, log_of: LogOf, tmp_path: Path
) -> None:
    script(
        "import os\nos.write(1, bytes(range(256)).replace(b'\\r', b'').replace(b'\\n', b'') +"
        " b'\\n\\xff\\xfe\\n')\n"
    )
    with (tmp_path / "screen").open("wb") as screen:
        run("--start", method, "script.py", stdout=screen)
    expected = bytes(byte for byte in range(256) if byte not in b"\r\n") + b"\n\xff\xfe\n"
    assert (tmp_path / "screen").read_bytes() == b"".join(
        b"[0] " + line + b"\n" for line in expected.split(b"\n")[:-1]
    )
    assert log_of(0) == expected


@pytest.mark.slow
def test_a_line_of_50_mb_needs_little_memory_and_arrives_whole(
    start: Start, script: Script, log_of: LogOf, tmp_path: Path
) -> None:
    script(
        "import os, time\nfor i in range(500): os.write(1, b'0123456789' * 10000)\nos.write(1,"
        " b'\\n')\nos.write(2, b'written\\n')\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    )
    running = start("script.py")
    running.wait_for("written")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.pid}/status").read_text())
    (tmp_path / "go").touch()
    done = running.finish()
    assert peak is not None
    assert int(peak[1]) < 80_000, "the supervisor's memory in KiB"
    assert log_of(0) == b"0123456789" * 5_000_000 + b"\n"
    assert (
        "".join(line.removeprefix("[0] ") for line in done.out.splitlines())
        == "0123456789" * 5_000_000
    )


@pytest.mark.slow
def test_bytes_arrive_in_a_pipe_as_they_were_written(
    method: str, run: Run, script: Script, tmp_path: Path
) -> None:
    data = b"a\rb\nc\r\n" + random.Random(1).randbytes(1 << 20) + b"\n" + b"x" * (2 << 20) + b"\n"
    (tmp_path / "data").write_bytes(data)
    script("import sys\nsys.stdout.buffer.write(open('data', 'rb').read())\n")
    options = ("--start", method, "--log-line-prefix-template", "")
    with (tmp_path / "screen").open("wb") as screen:
        run(*options, "script.py", stdout=screen)
    assert (tmp_path / "screen").read_bytes() == data


@pytest.mark.slow
def test_lines_of_20_mb_of_several_ranks_arrive_whole(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import os\nrank = os.environ['RANK'].encode()\nfor i in range(200): os.write(1, rank *"
        " 100000)\nos.write(1, b'\\n')\nos.write(1, b'short\\n')\n"
    )
    with (tmp_path / "screen").open("wb") as screen:
        run("--nproc-per-node", "3", "script.py", stdout=screen)
    lines = (tmp_path / "screen").read_bytes().splitlines()
    long = [b"[%d] " % rank + b"%d" % rank * 20_000_000 for rank in range(3)]
    assert sorted(lines) == sorted([*long, *(b"[%d] short" % rank for rank in range(3))])


@pytest.mark.slow
def test_half_a_line_is_seen_in_a_pipe_before_its_end(
    start: Start, script: Script, tmp_path: Path
) -> None:
    script(
        "import os, time\nprint('loading... ', end='', flush=True)\nwhile not"
        " os.path.exists('go'): time.sleep(0.01)\nprint('done')\n"
    )
    running = start("script.py")
    running.wait_for("[0] loading... ")
    (tmp_path / "go").touch()
    assert running.finish().out == "[0] loading... done\n"


@pytest.mark.slow
def test_a_worker_that_dies_right_after_printing_loses_nothing(
    method: str, run: Run, script: Script, log_of: LogOf
) -> None:
    script(
        "import os, signal, sys\n"
        "for i in range(3000): print('line', i)\n"
        "sys.stdout.write('the very last'); sys.stdout.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run("--start", method, "script.py")
    expected = "".join(f"line {i}\n" for i in range(3000)) + "the very last"
    assert log_of(0).decode() == expected
    assert done.out == "".join(f"[0] {line}\n" for line in expected.split("\n"))


@pytest.mark.slow
def test_a_grandchild_that_keeps_the_pipe_open_does_not_hold_up_the_end(
    method: str, run: Run, script: Script
) -> None:
    script("import subprocess\nsubprocess.Popen(['sleep', '1000'])\nprint('done')\n")
    done = run("--start", method, "script.py")
    assert (done.out, done.code) == ("[0] done\n", 0)


PROGRESS = """
import sys
for percent in range(101):
    sys.stderr.write(f"\\r{percent}% done")
    sys.stderr.flush()
sys.stderr.write("\\n")
"""


@pytest.mark.slow
def test_a_progress_bar_is_thinned_where_there_is_no_terminal(
    run: Run, script: Script, log_of: LogOf
) -> None:
    script(PROGRESS)
    done = run("script.py")
    lines = done.err.splitlines()
    assert lines[-1] == "[0] 100% done"
    assert 1 <= len(lines) <= 4
    assert all(re.fullmatch(r"\[0\] \d+% done", line) for line in lines)
    assert log_of(0, "err") == b"".join(b"\r%d%% done" % percent for percent in range(101)) + b"\n"


@pytest.mark.slow
def test_on_a_terminal_a_progress_bar_is_live_and_prefixes_have_colours(
    start_command: Start, script: Script
) -> None:
    script(
        "import sys\nsys.stderr.write('\\r50% done');"
        " sys.stderr.flush()\nsys.stdin.readline()\nprint('\\nlast')\n"
    )
    terminal = Terminal(start_command, "script.py")
    terminal.wait_for(b"50% done")
    terminal.type(b"\n")
    assert terminal.finish() == 0
    assert b"\x1b[36m[0] \x1b[0mlast" in terminal.seen


@pytest.mark.slow
def test_no_color_is_obeyed_and_redirected_output_has_no_colours(
    start_command: Start, run: Run, script: Script
) -> None:
    script("print('text')\n")
    terminal = Terminal(start_command, "script.py", NO_COLOR="1")
    assert terminal.finish() == 0
    assert b"[0] text\r\n" in terminal.seen
    assert b"\x1b[3" not in terminal.seen
    assert run("script.py").out == "[0] text\n"
    assert run("script.py", env={"FORCE_COLOR": "1"}).out == "\x1b[36m[0] \x1b[0mtext\n"


@pytest.mark.slow
def test_a_reader_that_stands_still_holds_up_neither_ranks_nor_files(
    start: Start, script: Script, log_of: LogOf, tmp_path: Path
) -> None:
    script(
        "import sys\nfor i in range(150000): sys.stdout.write(f'line {i} ' + 'x' * 80 + '\\n')\n"
        "sys.stdout.flush()\nopen('done', 'w').close()\n"
    )
    running = start("script.py", reading=False, env={"PYTHONUNBUFFERED": "0"})
    # The pipe is full after 64 KiB, our buffer after 4 MiB; the script writes 14 MB and ends all
    # the same.
    wait_until((tmp_path / "done").exists, "the rank ends")
    wait_until(lambda: log_of(0).count(b"\n") == 150000, "the log file is complete")
    running.read()
    done = running.finish()
    assert done.code == 0
    skipped = re.search(r"(\d+) lines were not shown", done.err)
    assert skipped is not None, done.err
    assert len(done.out.splitlines()) + int(skipped[1]) == 150000


@pytest.mark.slow
def test_a_reader_that_has_gone_does_no_harm(
    method: str, start: Start, script: Script, log_of: LogOf
) -> None:
    script("for i in range(30000): print('line', i)\n")
    running = start("--start", method, "script.py", reading=False)
    running.process.stdout.read(10)
    running.process.stdout.close()
    assert running.process.wait(60) == 0
    assert log_of(0).count(b"\n") == 30000


@pytest.mark.slow
def test_a_full_disk_under_stdout_is_said_once_and_does_no_harm(
    run: Run, script: Script, log_of: LogOf
) -> None:
    script("for i in range(30000): print('line', i)\n")
    with Path("/dev/full").open("wb") as full:
        done = run("script.py", stdout=full)
    assert done.code == 0
    assert (
        done.err
        == "[launcher] stdout cannot be written: No space left on device; the log files have what"
        " is missing\n"
    )
    assert log_of(0).count(b"\n") == 30000


@pytest.mark.slow
def test_a_full_disk_under_the_log_files_is_said_once_and_the_run_goes_on(
    run: Run, script: Script
) -> None:
    script("for i in range(30000): print('line', i)\n")

    def limit() -> None:
        import resource

        # Stands in for a full disk: writing beyond 100 kB fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run("script.py", preexec_fn=limit)
    assert done.code == 0
    assert len(done.out.splitlines()) == 30000
    assert done.err.count("cannot write") == 1


@pytest.mark.slow
def test_stdout_may_be_a_socket(start_command: Start, script: Script) -> None:
    script("for i in range(20000): print('line', i)\n")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        running = start_command(command("script.py"), stdout=theirs)
        theirs.close()
        received = b""
        while data := ours.recv(1 << 16):
            received += data
        assert running.finish().code == 0
    assert received == b"".join(b"[0] line %d\n" % i for i in range(20000))


@pytest.mark.slow
def test_where_no_folder_can_be_made_another_is_taken_and_said(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script("print('fine')\n")
    (tmp_path / "runs").touch()
    done = run("script.py", env={"TMPDIR": str(tmp_path / "other")})
    assert (done.out, done.code) == ("[0] fine\n", 0)
    assert "cannot write" in done.err
    assert str(tmp_path / "other") in done.err
    (log,) = (tmp_path / "other").rglob("rank_00.out")
    assert log.read_text() == "fine\n"


@pytest.mark.slow
def test_an_id_longer_than_a_file_name_still_has_a_folder(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script("import os; print(os.environ['TORCHELASTIC_RUN_ID'])\n")
    for _ in range(2):  # the second one gets a number behind it
        done = run("--run-dir", "runs", "--rdzv-id", "x" * 300, "script.py")
        assert (done.out, done.err, done.code) == (f"[0] {'x' * 300}\n", "", 0)
    assert len(run_dirs(tmp_path)) == 2


@pytest.mark.slow
def test_a_filter_that_hides_all_ranks_is_noted(run: Run, script: Script) -> None:
    script("print('fine')\n")
    done = run("--local-ranks-filter", "7", "script.py")
    assert (done.out, done.code) == ("", 0)
    assert (
        done.err
        == "[launcher] --local-ranks-filter 7: this node has no local rank 7; its local rank 0 can"
        " be shown\n"
    )


BOTH = (
    "import os, sys\nprint('out of', os.environ['RANK'])\nprint('err of', os.environ['RANK'],"
    " file=sys.stderr)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], "012", "012"),
        (["--local-ranks-filter", "1"], "1", "1"),
        (["-r", "3"], "", ""),
        (["-r", "1"], "", "012"),
        (["--redirects", "0:1,2:2"], "12", "01"),
        (["-r", "3", "-t", "1"], "012", ""),
        (["-r", "3", "-t", "1:3"], "1", "1"),
        (["-t", "3", "--local-ranks-filter", "0,2"], "02", "02"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_choose_what_the_screen_shows_and_the_files_have_everything(
    options: list[str], out: str, err: str, run: Run, script: Script, log_of: LogOf
) -> None:
    script(BOTH)
    done = run("--nproc-per-node", "3", *options, "script.py")
    assert done.lines == [f"[{rank}] out of {rank}" for rank in out]
    assert sorted(done.err.splitlines()) == [f"[{rank}] err of {rank}" for rank in err]
    for rank in range(3):
        assert log_of(rank) == b"out of %d\n" % rank
        assert log_of(rank, "err") == b"err of %d\n" % rank


@pytest.mark.slow
def test_log_dir_and_filters_and_the_prefix_template(
    run: Run, script: Script, tmp_path: Path
) -> None:
    script(
        "import sys\nfor word in ('loss, 1', 'accuracy', 'other'): print(word)\nprint('Warning',"
        " file=sys.stderr)\n"
    )
    done = run(
        "--nproc-per-node",
        "2",
        "--log-dir",
        "logs",
        "--rdzv-id",
        "job",
        "--role",
        "trainer",
        "--duplicate-stdout-filters",
        "loss,,,accuracy",
        "--duplicate-stderr-filters",
        "Warn",
        "--log-line-prefix-template",
        "<${role_name}:${rank}/${local_rank}>",
        "script.py",
    )
    words = ("loss, 1", "accuracy", "other")
    assert done.lines == sorted(
        f"<trainer:{rank}/{rank}>{word}" for rank in range(2) for word in words
    )
    (folder,) = (tmp_path / "logs").iterdir()
    assert (folder / "rank_01.out").read_text() == "loss, 1\naccuracy\nother\n"
    found = (folder / "filtered_stdout.log").read_text().splitlines()
    assert sorted(found) == sorted(f"[{rank}] {word}" for rank in range(2) for word in words[:2])
    assert sorted((folder / "filtered_stderr.log").read_text().splitlines()) == [
        "[0] Warning",
        "[1] Warning",
    ]


@pytest.mark.slow
def test_output_comes_when_it_is_written_and_not_at_the_end(
    method: str, start: Start, script: Script
) -> None:
    script("import sys\nprint('question')\nanswer = sys.stdin.readline()\nprint('got', answer)\n")
    running = start("--start", method, "script.py", stdin=subprocess.PIPE)
    running.wait_for("[0] question\n")
    running.process.stdin.write(b"answer\n")
    running.process.stdin.close()
    assert running.finish().out == "[0] question\n[0] got answer\n[0] \n"


@pytest.mark.slow
def test_ranks_other_than_0_find_an_empty_stdin(method: str, run: Run, script: Script) -> None:
    script("import sys\nprint(repr(sys.stdin.read()))\n")
    done = run("--start", method, "--nproc-per-node", "2", "script.py", stdin="text")
    assert done.lines == ["[0] 'text'", "[1] ''"]


@pytest.mark.slow
def test_while_workers_are_idle_the_supervisor_sleeps(start: Start, script: Script) -> None:
    script("import signal\nprint('ready', flush=True)\nsignal.pause()\n")
    running = start("--nproc-per-node", "2", "script.py")
    running.wait_for("ready", 2)

    def times_it_slept() -> int:
        status = Path(f"/proc/{running.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def sleeps_a_second() -> bool:
        before, began = times_it_slept(), time.monotonic()
        time.sleep(1.0)  # not a wait for something: the second is what is measured
        # It looks every two seconds at what the ranks use.
        return times_it_slept() - before <= 2 * (time.monotonic() - began)

    # The first one may still belong to the output.
    assert sleeps_a_second() or sleeps_a_second(), "it wakes up, although nothing has happened"
    running.send(15)
    assert running.finish().code == 143
