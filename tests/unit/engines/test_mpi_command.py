"""mpirun's command line for a list of hosts, by whose mpirun it is."""

from __future__ import annotations

import sys

import pytest

from launcher.engines.mpi_command import Kind, MpiRun, guess_kind, make_command, read_version
from launcher.errors import UsageError
from launcher.options.hosts import parse_hosts
from launcher.options.spec import LaunchSpec

OPEN_MPI = Kind("Open MPI", 4)
OPEN_MPI_5 = Kind("Open MPI", 5)
HYDRA = Kind("hydra")

ENVIRON = {
    "PATH": "/usr/bin",
    "NCCL_DEBUG": "INFO",
    "HOME": "/home/you",
    "LAUNCHER_SECRET": "the secret",
    "PET_MAX_RESTARTS": "3",
}


def _make(kind: Kind, hosts: str, /, *, is_typed: bool = False, **options: object) -> MpiRun:
    provenance = {name: "--" + name.replace("_", "-") for name in options}
    values = {"rdzv_id": "fox", **options}
    spec = LaunchSpec(script="train.py", **values, provenance=provenance)
    return make_command(spec, ENVIRON, parse_hosts(hosts), kind, ["mpirun"], is_typed=is_typed)


def _launcher(*options: str) -> list[str]:
    python = [sys.executable, "-m", "launcher"]
    found = [word for word in options if word.startswith(("--nproc", "--nnodes", "--rdzv-end"))]
    return [*python, *found]


def _show(run: MpiRun) -> list[list[str]]:
    """Return the parts of a command, with those options of the launchers only that differ."""
    parts: list[list[str]] = [[]]
    for word in run.argv:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    shown = []
    for part in parts:
        at = part.index(sys.executable)
        shown.append([*part[:at], *_launcher(*part[at:])])
        assert part[-1] == "train.py"
        assert "--rdzv-id=fox" in part
        assert "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGALRM" in part
    return shown


EXPORTS = ["-x", "LAUNCHER_SECRET", "-x", "NCCL_DEBUG", "-x", "PATH"]


def test_open_mpi_starts_one_launcher_on_each_host() -> None:
    run = _make(OPEN_MPI, "h1:8,h2:8")
    head = ["mpirun", "--map-by", "ppr:1:node", "--bind-to", "none", "-q"]
    hosts = ["--host", "h1,h2", "-np", "2"]
    assert _show(run) == [[*head, *EXPORTS, *hosts, *_launcher("--nproc-per-node=8", "--nnodes=2")]]
    assert run.is_exact


def test_hosts_with_different_numbers_of_workers_get_commands_of_their_own() -> None:
    first, second, third = _show(_make(OPEN_MPI, "h1:8,h2:8,h3:4,h4:8"))
    endpoint = "--rdzv-endpoint=h1"
    assert first[-6:] == _launcher("--nproc-per-node=8", "--nnodes=4", endpoint)
    assert second == [
        *EXPORTS,
        *("--host", "h3", "-np", "1"),
        *_launcher("--nproc-per-node=4", "--nnodes=4", endpoint),
    ]
    assert third[-8:-6] == ["-np", "1"]
    assert _show(_make(OPEN_MPI, "h1:8,h2:4", rdzv_endpoint="h2:99"))[0][-1] == (
        "--rdzv-endpoint=h2:99"
    )


def test_without_numbers_each_host_has_what_was_typed() -> None:
    (part,) = _show(_make(OPEN_MPI, "h1,h2", nproc_per_node="gpu"))
    assert part[-2:] == ["--nproc-per-node=gpu", "--nnodes=2"]
    (part,) = _show(_make(OPEN_MPI, "h1,h2,h3", nnodes="2:3"))
    assert part[-2:] == ["--nproc-per-node=1", "--nnodes=2:3"]


def test_open_mpi_5_is_told_where_they_meet_and_which_signals_to_take_along() -> None:
    run = _make(OPEN_MPI_5, "h1:8,h2:8")
    signals = ["--prtemca", "ess_base_forward_signals", "SIGUSR1,SIGUSR2,SIGALRM"]
    (part,) = _show(run)
    assert part[:8] == ["mpirun", "--map-by", "ppr:1:node", "--bind-to", "none", *signals]
    assert part[-1] == "--rdzv-endpoint=h1"


def test_hydra_has_one_list_of_hosts_for_all() -> None:
    run = _make(HYDRA, "h1:8,h2:8,h3:4")
    names = ["-genvlist", "LAUNCHER_SECRET,NCCL_DEBUG,PATH"]
    first, second = _show(run)
    assert first == [
        *("mpirun", "-ppn", "1", "-hosts", "h1,h2,h3", *names, "-n", "2"),
        *_launcher("--nproc-per-node=8", "--nnodes=3"),
    ]
    assert second == ["-n", "1", *_launcher("--nproc-per-node=4", "--nnodes=3")]
    assert not run.is_exact


@pytest.mark.parametrize("kind", [OPEN_MPI, OPEN_MPI_5, HYDRA])
def test_names_stand_in_the_command_and_values_in_the_environment(kind: Kind) -> None:
    run = _make(kind, "h1,h2", export=("DEBUG=1",))
    text = " ".join(run.argv)
    assert "the secret" not in text and "INFO" not in text and "DEBUG=1" not in text
    assert "DEBUG" in text and "HOME" not in text
    assert {"LAUNCHER_SECRET": "the secret", "DEBUG": "1"}.items() <= run.environ.items()
    # The options that it stands for are typed for the launchers.
    assert "PET_MAX_RESTARTS" not in run.environ
    assert list(run.environ)[-1] == "HOME"  # hydra loses the last one, if that is to go along


def test_a_run_without_a_secret_gets_one() -> None:
    spec = LaunchSpec(script="train.py")
    runs = [make_command(spec, {}, parse_hosts("h1,h2"), OPEN_MPI, ["mpirun"]) for _ in range(2)]
    secrets = {run.environ["LAUNCHER_SECRET"] for run in runs}
    assert len(secrets) == 2 and min(map(len, secrets)) > 30


def test_arguments_of_the_users_come_behind_ours() -> None:
    run = _make(OPEN_MPI, "h1,h2", engine_args="--mca btl 'tcp,self'")
    at = run.argv.index("--mca")
    assert run.argv[at : at + 3] == ("--mca", "btl", "tcp,self")
    assert at < run.argv.index("-x")


def test_a_quote_that_is_not_closed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--engine-args ': cannot be split into arguments"):
        _make(OPEN_MPI, "h1,h2", engine_args="'")


def test_a_user_s_name_is_ssh_s_business() -> None:
    with pytest.raises(UsageError) as caught:
        _make(OPEN_MPI, "h1,me@h2")
    assert "no way to log in at h2 as me" in str(caught.value)
    assert "~/.ssh/config: Host h2, User me" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/\n", OPEN_MPI),
        ("mpirun (Open MPI) 5.0.11\n", OPEN_MPI_5),
        ("HYDRA build details:\n    Version:       4.0.2\n", HYDRA),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9\n", HYDRA),
    ],
)
def test_mpirun_says_whose_it_is(text: str, kind: Kind) -> None:
    assert read_version(text) == kind


def test_an_mpirun_that_is_not_known_is_named() -> None:
    with pytest.raises(UsageError, match="LAUNCHER_MPIRUN"):
        read_version("prun 1.0\n")


def test_some_need_not_be_asked() -> None:
    assert guess_kind("/usr/bin/orterun") == OPEN_MPI
    assert guess_kind("/usr/bin/mpiexec.hydra") == HYDRA
    assert guess_kind("/opt/openmpi/bin/mpirun") is None


@pytest.mark.parametrize("kind", [OPEN_MPI, OPEN_MPI_5, HYDRA])
def test_what_is_typed_goes_to_the_first_launcher(kind: Kind) -> None:
    run = _make(kind, "h1:2,h2:2", is_typed=True)
    assert run.has_input
    assert "--stdin" not in run.argv
    assert run.environ["LAUNCHER_TERMINAL"] == "0 0 in"
    assert "LAUNCHER_TERMINAL" in " ".join(run.argv)  # it is taken along
    piped = _make(kind, "h1:2,h2:2")
    assert not piped.has_input
    assert "LAUNCHER_TERMINAL" not in piped.environ


@pytest.mark.parametrize(("rank", "task"), [(1, 0), (2, 1), (4, 1), (5, 2)])
def test_the_launcher_whose_rank_is_named_reads(rank: int, task: int) -> None:
    run = _make(OPEN_MPI, "h1:2,h2:3,h3:1", stdin_rank=rank)
    assert run.has_input
    assert ("--stdin" in run.argv) == (task > 0)
    if task:
        assert run.argv[run.argv.index("--stdin") + 1] == str(task)


def test_mpich_hands_what_is_typed_to_the_first_host_only() -> None:
    assert _make(HYDRA, "h1:2,h2:2", stdin_rank=1, is_typed=True).has_input
    with pytest.raises(UsageError, match="is not on the first host"):
        _make(HYDRA, "h1:2,h2:2", stdin_rank=2, is_typed=True)
    with pytest.raises(UsageError, match="none for a pipe or a file"):
        _make(HYDRA, "h1:2,h2:2", stdin_rank=0)
