"""From the processes of a host to the ranks that one supervisor starts, or why it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.attached import host
from launcher.attached.host import Apart, assemble, find_common_port
from launcher.attached.obstacles import Facts
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec
from launcher.plan.task import Task
from launcher.starters.detect import detect_engine
from launcher.system.inheritance import Inheritance


def variables(rank: int, size: int = 2, local_size: int = 2) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % local_size),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(local_size),
    }


class Link:
    """One process, of which everything is known."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.place = detect_engine(facts.environ)
        self.has_ended = False

    def make_task(self, args: tuple[str, ...]) -> Task:
        if self.has_ended:
            raise FileNotFoundError
        cpus = tuple(os.sched_getaffinity(self.facts.pid))  # as it reads all of the process itself
        inherited = Inheritance(0o22, 0, cpus, (), ())
        return Task(self.place, args, self.facts.environ, inherited, (0, 1, 2), (3,))


class Crew:
    """The processes of a host that have come."""

    name = "\0launcher-0-1-100-7"
    file_limit = ""

    def __init__(self, facts: list[Facts], expected: int = 2) -> None:
        self.links = [Link(each) for each in facts]
        self.expected = expected
        self.have_all_gone = False

    @property
    def are_complete(self) -> bool:
        return len(self.links) == self.expected

    def gather(self, say: Any) -> bool:
        say(f"{len(self.links)} of {self.expected}")
        return self.are_complete

    def find_file_limit(self) -> str:
        return self.file_limit


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The current folder, with a program in it; and this process has been started as rank 0."""
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for name, value in variables(0).items():
        monkeypatch.setenv(name, value)
    return str(tmp_path)


def facts(rank: int, folder: str, *arguments: str, **more: str) -> Facts:
    # Of a process that exists: its CPUs are asked for.
    return Facts(
        os.getpid(),
        ("python", "-m", "launcher"),
        arguments or ("train.py",),
        {**variables(rank), **more},
        folder=folder,
    )


def put_together(crew: Crew, *arguments: str) -> tuple[LaunchSpec, host.Together, list[str]]:
    """Assemble what this process, one of them, was called with; return what was said, too."""
    given, command = read_arguments(LaunchSpec, list(arguments or ("train.py",)))
    spec = LaunchSpec.from_sources(
        given, os.environ, script=command[0], script_args=tuple(command[1:])
    )
    said: list[str] = []
    fake: Any = crew
    return *assemble(fake, spec, detect_engine(os.environ), said.append), said


def test_processes_that_run_one_program_are_put_together(folder: str) -> None:
    crew = Crew([facts(0, folder), facts(1, folder, CUDA_VISIBLE_DEVICES="1")])
    spec, together, _ = put_together(crew)
    assert [task.place.rank for task in together.tasks] == [0, 1]
    assert [task.place.num_nodes for task in together.tasks] == [1, 1]
    assert together.tasks[1].environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert (together.master, together.run_id, spec.start) == (None, "", "auto")


def test_the_arguments_of_the_script_may_differ(folder: str) -> None:
    crew = Crew([facts(0, folder, "train.py", "--seed", "1"), facts(1, folder, "train.py", "-x")])
    _, together, _ = put_together(crew, "train.py", "--seed", "1")
    assert [task.args for task in together.tasks] == [("--seed", "1"), ("-x",)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("other.py",), "they run different programs"),
        (("--max-restarts", "2", "train.py"), "they have different options"),
        (("--no-such-option", "train.py"), "they have different options"),
        (("--max-restarts",), "they have different options"),
        ((), "they have different options"),
    ],
)
def test_processes_with_other_programs_or_options_are_ranks_themselves(
    folder: str, arguments: tuple[str, ...], reason: str
) -> None:
    Path("other.py").write_text("")
    other = facts(1, folder)._replace(arguments=arguments)
    with pytest.raises(Apart, match=reason):
        put_together(Crew([facts(0, folder), other]))


def test_options_that_differ_by_a_variable_differ(folder: str) -> None:
    crew = Crew([facts(0, folder), facts(1, folder, PET_MAX_RESTARTS="2")])
    with pytest.raises(Apart, match="they have different options"):
        put_together(crew)


def test_one_name_in_two_folders_is_two_programs_unless_it_is_one_file(
    folder: str, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "train.py").write_text("")
    with pytest.raises(Apart, match="they run different programs"):
        put_together(Crew([facts(0, folder), facts(1, str(second))]))
    (second / "train.py").unlink()
    (second / "train.py").hardlink_to(tmp_path / "train.py")
    _, together, _ = put_together(Crew([facts(0, folder), facts(1, str(second))]))
    assert len(together.tasks) == 2


def test_variables_that_libraries_read_once_give_each_rank_an_interpreter(folder: str) -> None:
    crew = Crew([facts(0, folder), facts(1, folder, OMP_NUM_THREADS="3")])
    spec, _, said = put_together(crew)
    assert spec.start == "spawn"
    assert "OMP_NUM_THREADS is not the same on ranks 0-1" in said[-1]


@pytest.mark.parametrize(
    ("arguments", "environ", "reason"),
    [
        (("--start", "in-place", "train.py"), {}, "--start in-place"),
        ((), {"OMPI_COMM_WORLD_LOCAL_SIZE": ""}, "mpirun does not say how many ranks"),
    ],
)
def test_nobody_is_waited_for_where_there_is_nothing_to_put_together(
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environ: dict[str, str],
    reason: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    crew = Crew([])
    crew.gather = None  # type: ignore[assignment,method-assign]
    with pytest.raises(Apart, match=reason):
        put_together(crew, *arguments)


def test_who_has_not_come_is_counted(folder: str) -> None:
    with pytest.raises(Apart, match=r"of the 2 processes .* on this host, 1 are launchers"):
        put_together(Crew([facts(0, folder)]))


def test_where_all_have_gone_the_supervisor_goes_too(folder: str) -> None:
    crew = Crew([facts(0, folder)])
    crew.have_all_gone = True
    with pytest.raises(SystemExit):
        put_together(crew)


def test_one_that_cannot_be_looked_at_is_named_as_what_it_is(folder: str) -> None:
    """It has no number here, no environment, and so no rank: it is not one that is missing."""
    crew = Crew([facts(0, folder), Facts(0)])
    crew.gather = lambda say: False  # type: ignore[assignment,method-assign]
    with pytest.raises(Apart, match="in a process namespace of its own"):
        put_together(crew)


def test_one_that_has_just_ended_ends_nobody_else(folder: str) -> None:
    crew = Crew([facts(0, folder), facts(1, folder)])
    crew.links[1].has_ended = True
    with pytest.raises(Apart, match="one of them has ended"):
        put_together(crew)
    gone = facts(1, folder)._replace(pid=1 << 23)
    with pytest.raises(Apart, match="one of them has ended"):
        put_together(Crew([facts(0, folder), gone]))


def test_too_many_files_for_one_process_keep_the_ranks_apart(folder: str) -> None:
    crew = Crew([facts(0, folder), facts(1, folder)])
    crew.file_limit = "they need too many"
    with pytest.raises(Apart, match="they need too many"):
        put_together(crew)


@pytest.mark.parametrize(
    ("has_mpi4py", "environ", "master"),
    [
        (True, {}, ("", 0)),  # the ranks agree, also on the number of their nodes
        (True, {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}, ("", 0)),
        (False, {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}, ("head", 29500)),
    ],
)
def test_ranks_of_several_hosts_meet_where_the_variables_say_or_they_agree(
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    has_mpi4py: bool,
    environ: dict[str, str],
    master: tuple[str, int],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: has_mpi4py or None)
    several = {**variables(0, size=4), "PMIX_NAMESPACE": "job", **environ}
    for name, value in several.items():
        monkeypatch.setenv(name, value)
    crew = Crew([facts(rank, folder, OMPI_COMM_WORLD_SIZE="4") for rank in (0, 1)])
    for link in crew.links:
        link.facts = link.facts._replace(arguments=("--max-restarts", "3", "train.py"))
    spec, together, said = put_together(crew, "--max-restarts", "3", "train.py")
    assert together.master == master
    assert together.run_id == f"job.{os.uname().nodename}"
    assert spec.max_restarts == 0
    assert said[-1].startswith("--max-restarts has no effect")


def test_supervisors_of_one_job_name_one_port_where_ranks_cannot_derive_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = detect_engine({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"})
    first: Any = Crew([])
    second: Any = Crew([])
    assert find_common_port(first, place) == find_common_port(second, place) > 1024
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert find_common_port(first, place) == 0
