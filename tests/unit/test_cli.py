"""The command line itself: what is accepted, what is printed, which code comes back."""

import os
import sys

import pytest

from launcher import cli
from launcher.errors import UsageError
from launcher.options.arguments import list_options, read_arguments
from launcher.options.help import make_parser
from launcher.options.spec import LaunchSpec

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

FLAGS = """
    --account --backend --bars --console-ranks --control-port --devices --die-with-parent --dry-run
    --duplicate-stderr-filters --duplicate-stdout-filters --engine --engine-args --event-log-handler
    --events --export --fold --gpus-per-node --hang-timeout --help --hostfile --hosts --keep
    --local-addr --local-ranks-filter --log-dir --log-line-prefix-template --logs-specs
    --master-addr --master-port --max-restarts --module --monitor-interval --nnodes --no-python
    --no-restart-codes --no-tty --node-rank --node-timeout --nproc-per-node --numa-binding --on-end
    --on-failure --partition --preload --print-completion --quiet --rdzv-backend --rdzv-conf
    --rdzv-endpoint --rdzv-id --redirects --rescale --restart-backoff --restart-limit --role
    --run-dir --run-path --secret-file --shutdown-timeout --signals-to-handle --standalone --start
    --start-method --stats --stdin-rank --submit --tee --time --timestamps --version
    --virtual-local-rank --wait
""".split()  # noqa: SIM905


def test_there_are_exactly_these_flags():
    assert sorted(option.flag for option in list_options(LaunchSpec).values()) == FLAGS


def test_help_is_the_golden_text(capsys):
    with open(os.path.join(ROOT, "tests", "golden", "help.txt"), encoding="ascii") as file:
        golden = file.read()
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == golden
    assert max(map(len, golden.splitlines())) < 80


def test_help_hides_the_second_spelling_and_marks_what_has_no_meaning():
    text = make_parser(LaunchSpec).format_help()
    assert "--nproc_per_node" not in text
    assert "No meaning here: nothing polls." in text


def test_no_arguments_give_a_short_usage_with_an_example(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "python -m launcher --nproc-per-node 2 train.py" in err
    assert len(err.splitlines()) < 8


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["--nproc-per-gpu", "2", "x.py"],
            "--nproc-per-gpu: there is no such option. Did you mean --nproc-p",
        ),
        (["--nproc_pr_node=2", "x.py"], "there is no such option. Did you mean --nproc-per-node?"),
        (
            ["--log=x", "x.py"],
            "--log=x: this may be --log-dir, --log-line-prefix-template or --logs-specs. Type more",
        ),
        (["-x", "x.py"], "-x: there is no such option."),
        (["--role"], "--role needs a value."),
        (["--standalone=1", "x.py"], "--standalone: takes no value, and '1' was given."),
        (["-m=1", "x.py"], "-m: takes no value, and '1' was given."),
        (
            ["--nproc-per-node", "2"],
            "Type for example: python -m launcher --nproc-per-node 2 train.py",
        ),
        (["--"], "No script was given."),
        (
            ["--print-completion", "fish"],
            "--print-completion fish: must be one of: bash, zsh, tcsh.",
        ),
    ],
)
def test_a_usage_error_is_one_paragraph_and_code_2(capsys, argv, words):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("launcher: error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "rest",
    [
        ["--help"],
        ["--"],
        ["--", "--"],
        ["-m", "x"],
        [""],
        ["a", "", "b"],
        ["--nproc-per-node", "7"],
        ["-r=3"],
        ["--unknown"],
        ["-"],
        ["a b", "-x y"],
        ["$RANK"],
        [os.fsdecode(b"\xff\xfe")],
        ["@file"],
        ["--nproc=1"],
        ["-1"],
    ],
)
def test_everything_behind_the_script_belongs_to_the_script(rest):
    for count, before in [
        (0, []),
        (0, ["--"]),
        (1, ["-m"]),
        (1, ["--nproc-per-node", "2"]),
        (3, ["-r3", "--tee=1", "--standalone"]),
    ]:
        given, command = read_arguments(LaunchSpec, [*before, "train.py", *rest])
        assert command == ["train.py", *rest]
        assert len(given) == count


def test_the_script_may_begin_with_a_hyphen_behind_two_hyphens():
    assert read_arguments(LaunchSpec, ["--standalone", "--", "-odd.py", "--"])[1] == [
        "-odd.py",
        "--",
    ]


@pytest.mark.parametrize(
    "argv", [["-r", "3"], ["-r3"], ["-r=3"], ["--redirects", "3"], ["--redirects=3"], ["-mr3"]]
)
def test_values_may_be_attached_or_follow(argv):
    given, _ = read_arguments(LaunchSpec, [*argv, "train.py"])
    assert given["redirects"][1] == "3"


def test_a_list_that_is_given_twice_counts_whole() -> None:
    argv = ["--export", "A", "--export=B=1,C", "--devices", "0", "train.py"]
    given, _ = read_arguments(LaunchSpec, argv)
    assert given == {"export": ("--export", "A,B=1,C"), "devices": ("--devices", "0")}


def test_the_last_of_two_equal_flags_counts():
    given, _ = read_arguments(LaunchSpec, ["--role", "a", "--role=b", "train.py"])
    assert given["role"] == ("--role", "b")


@pytest.mark.parametrize("value", ["--standalone", "-m", "--unknown", "--", "-1x"])
def test_a_flag_as_value_is_refused(value):
    with pytest.raises(UsageError, match=f"--role needs a value, and {value} looks like a flag"):
        read_arguments(LaunchSpec, ["--role", value, "train.py"])
    given, _ = read_arguments(LaunchSpec, [f"--role={value}", "train.py"])
    assert given["role"] == ("--role", value)


@pytest.mark.parametrize("value", ["-1", "-0.5", "-", "", "-x y", "=", "a=b"])
def test_other_values_may_begin_as_flags_do(value):
    given, command = read_arguments(LaunchSpec, ["--role", value, "train.py"])
    assert (given, command) == ({"role": ("--role", value)}, ["train.py"])


def test_the_version_is_printed(capsys):
    from launcher import __version__

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"launcher {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_script_is_printed(capsys, shell):
    pytest.importorskip("shtab")
    assert cli.main(["--print-completion", shell]) == 0
    out = capsys.readouterr().out
    assert "nproc-per-node" in out
    assert "launcher" in out


def test_completion_without_shtab_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print_completion", "bash"]) == 1
    assert capsys.readouterr().err.endswith("not installed. Type: pip install shtab\n")


def test_control_c_ends_with_130_and_no_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LaunchSpec, "from_sources", interrupted)
    assert cli.main(["train.py"]) == 130
    assert capsys.readouterr() == ("", "")
