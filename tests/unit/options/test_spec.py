"""What a launch can be asked for, and what is refused with which words."""

import signal

import pytest

from launcher.errors import UsageError
from launcher.options import syntax
from launcher.options.arguments import read_arguments
from launcher.options.spec import LaunchSpec

# A value for every option that differs from its default: a new field must be added here, on
# purpose.
OTHER_VALUES = {
    "nproc_per_node": "2",
    "start": "spawn",
    "preload": "torch,numpy",
    "devices": "0,1",
    "backend": "gloo",
    "virtual_local_rank": "1",
    "role": "trainer",
    "module": "1",
    "no_python": "1",
    "run_path": "1",
    "dry_run": "1",
    "run_dir": "elsewhere",
    "log_dir": "logs",
    "redirects": "3",
    "tee": "0:1,11:2",
    "local_ranks_filter": "0,10",
    "console_ranks": "0,8-15",
    "fold": "1",
    "timestamps": "1",
    "quiet": "1",
    "stats": "1",
    "log_line_prefix_template": "${rank}: ",
    "duplicate_stdout_filters": "a,b",
    "duplicate_stderr_filters": "c",
    "no_tty": "1",
    "bars": "all",
    "stdin_rank": "1",
    "restart_backoff": "2.5",
    "restart_limit": "3/600",
    "no_restart_codes": "2,64-78",
    "hang_timeout": "90.5",
    "keep": "5",
    "events": "3",
    "on_end": "./tell.sh",
    "on_failure": "mail root <$1",
    "die_with_parent": "1",
    "max_restarts": "3",
    "shutdown_timeout": "1.5",
    "signals_to_handle": "SIGTERM,SIGUSR1",
    "nnodes": "1",
    "node_rank": "0",
    "master_addr": "::1",
    "master_port": "29500",
    "rdzv_id": "job",
    "standalone": "1",
    "rdzv_backend": "c10d",
    "rdzv_endpoint": "localhost:0",
    "rdzv_conf": "a=b",
    "local_addr": "10.0.0.1",
    "monitor_interval": "5",
    "start_method": "fork",
    "event_log_handler": "console",
    "logs_specs": "mine",
    "numa_binding": "node",
    "control_port": "29501",
    "node_timeout": "20",
    "rescale": "next",
    "secret_file": "~/.secret",
    "engine": "ssh",
    "hosts": "a:2,b:2",
    "hostfile": "hosts.txt",
    "export": "HF_HOME,DEBUG=1",
    "submit": "1",
    "wait": "1",
    "time": "4:00:00",
    "partition": "test",
    "account": "us",
    "gpus_per_node": "8",
    "engine_args": "exclusive",
}
# What options need beside them.
NEEDED = {
    **dict.fromkeys(
        ("submit", "time", "partition", "account", "gpus_per_node"), ("--engine=slurm",)
    ),
    "wait": ("--engine=slurm", "--submit"),
}
FIELDS = [name for name, field in LaunchSpec.options.items() if field.flags]


def spec_of(*argv, environ=()):
    given, command = read_arguments(LaunchSpec, [*argv, "train.py"])
    return LaunchSpec.from_sources(
        given, dict(environ), script=command[0], script_args=tuple(command[1:])
    )


def refused(*argv, environ=()):
    with pytest.raises(UsageError) as error:
        spec_of(*argv, environ=environ)
    return error.value


def test_every_option_has_a_value_in_these_tests():
    assert sorted(OTHER_VALUES) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_variable_means_the_same_as_the_flag_in_either_spelling(name):
    field, text = LaunchSpec.options[name], OTHER_VALUES[name]
    needed = NEEDED.get(name, ())
    by_variable = spec_of(*needed, environ={f"PET_{name.upper()}": text})
    assert by_variable.provenance[name] == f"PET_{name.upper()}"
    for flag in field.spellings:
        typed = [flag] if field.is_switch else [flag, text]
        by_flag = spec_of(*needed, *typed)
        assert by_flag == by_variable
        assert by_flag.provenance[name] == flag
    assert getattr(by_variable, name) != field.default


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--nproc", "2"], "nproc_per_node", "2"),
        (["--nproc_per=2"], "nproc_per_node", "2"),
        (["--redirect", "3"], "redirects", "3"),
        (["--redirects", "3"], "redirects", "3"),
        (["--max", "3"], "max_restarts", 3),
        (["--standal"], "standalone", True),
        (["--start", "spawn"], "start", "spawn"),
        (["--start-m=fork"], "start_method", "fork"),
    ],
)
def test_what_begins_one_long_option_alone_stands_for_it(argv, name, value):
    spec = spec_of(*argv)
    assert getattr(spec, name) == value
    assert spec.provenance[name] in LaunchSpec.options[name].spellings


@pytest.mark.parametrize("name", FIELDS)
def test_a_spec_survives_the_way_to_arguments_and_back(name):
    spec = spec_of(*NEEDED.get(name, ()), environ={f"PET_{name.upper()}": OTHER_VALUES[name]})
    given, command = read_arguments(LaunchSpec, spec.to_argv())
    assert (
        LaunchSpec.from_sources(given, {}, script=command[0], script_args=tuple(command[1:]))
        == spec
    )


def test_script_arguments_come_back_from_the_argument_list():
    spec = LaunchSpec(script="-odd.py", script_args=("--", "-m", "", "--help"))
    _, command = read_arguments(LaunchSpec, spec.to_argv())
    assert command == ["-odd.py", "--", "-m", "", "--help"]


def test_defaults_are_torchruns():
    spec = spec_of()
    assert (spec.nproc, syntax.parse_nodes(spec.nnodes), spec.max_restarts) == (1, (1, 1), 0)
    assert (spec.shutdown_timeout, spec.master_port, spec.role) == (30.0, None, "default")
    assert spec.signals == (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "1.5", "xpu", "2,3"])
def test_a_wrong_number_of_workers_is_refused(text):
    error = refused("--nproc-per-node", text)
    assert error.message.startswith("--nproc-per-node ")
    assert "must be a number of at least 1, or one of the words cpu, gpu and auto" in error.message
    assert error.hint == "Type for example: python -m launcher --nproc-per-node 2 SCRIPT"
    assert error.exit_code == 2


def test_an_error_names_the_spelling_that_was_typed():
    assert refused("--nproc_per_node=two").message.startswith("--nproc_per_node two: ")
    assert refused("-r", "7").message.startswith("-r 7: ")
    assert (
        refused(environ={"PET_MAX_RESTARTS": "x"}).message
        == "PET_MAX_RESTARTS=x: must be a whole number."
    )


@pytest.mark.parametrize(
    ("asked", "gpus", "workers"),
    [("3", 0, 3), ("cpu", 2, 8), ("gpu", 2, 2), ("auto", 2, 2), ("auto", 0, 8)],
)
def test_workers_are_counted_by_number_cpu_gpu_or_auto(asked, gpus, workers):
    assert spec_of("--nproc-per-node", asked).local_world_size(lambda: 8, lambda: gpus) == workers


def test_listed_devices_are_the_gpus_to_count():
    spec = spec_of("--nproc-per-node", "gpu", "--devices", "3,5,7")
    assert spec.local_world_size(lambda: 8, lambda: pytest.fail("not needed")) == 3


@pytest.mark.parametrize(
    ("argv", "gpus", "problem", "to_type"),
    [
        (
            ["--nproc-per-node", "gpu"],
            0,
            "no GPU is visible here",
            "--nproc-per-node 2 --backend gloo train.py",
        ),
        (
            ["--backend", "nccl"],
            0,
            "no GPU is visible here",
            "--nproc-per-node 1 --backend gloo train.py",
        ),
        (
            ["--nproc-per-node", "4", "--backend", "nccl"],
            2,
            "but 2 GPUs are visible",
            "--nproc-per-node 2 ",
        ),
        (
            ["--nproc-per-node", "4", "--backend", "nccl"],
            1,
            "but 1 GPU is visible",
            "--nproc-per-node 1 ",
        ),
    ],
)
def test_more_gpu_workers_than_gpus_are_refused(argv, gpus, problem, to_type):
    with pytest.raises(UsageError) as error:
        spec_of(*argv).local_world_size(lambda: 8, lambda: gpus)
    assert problem in error.value.message
    assert to_type in error.value.hint


@pytest.mark.parametrize("text", ["1", "1:1"])
def test_one_node_may_be_written_in_two_ways(text):
    assert spec_of("--nnodes", text).max_nodes == 1


@pytest.mark.parametrize(
    ("text", "nodes"), [("2", (2, 2)), ("1:4", (1, 4)), ("2:2", (2, 2))], ids=["N", "range", "same"]
)
def test_nodes_are_a_number_or_a_range(text, nodes):
    spec = spec_of("--nnodes", text)
    assert (spec.min_nodes, spec.max_nodes) == nodes


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("", ("", 0)),
        ("node0", ("node0", 0)),
        ("node0:29400", ("node0", 29400)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::1]:29400", ("fd00::1", 29400)),
        ("[fd00::1]", ("fd00::1", 0)),
        ("fd00::1", ("fd00::1", 0)),
    ],
)
def test_an_endpoint_is_a_host_and_maybe_a_port(text, endpoint):
    assert spec_of("--rdzv-endpoint", text).endpoint == endpoint


@pytest.mark.parametrize("text", ["node0:", "node0:x", ":29400", "node0:70000", "[fd00::1:29400"])
def test_a_wrong_endpoint_is_refused(text):
    error = refused("--rdzv-endpoint", text)
    assert error.message.startswith(f"--rdzv-endpoint {text}: must be HOST or HOST:PORT")


def test_of_the_rendezvous_settings_those_with_a_meaning_are_read():
    spec = spec_of("--rdzv-conf", "join_timeout=60,read_timeout=9,is_host=true,store=x")
    assert spec.rendezvous_settings == {"join_timeout": 60.0, "is_host": 1.0}


@pytest.mark.parametrize("text", ["join_timeout=soon", "last_call_timeout=-1", "join_timeout"])
def test_a_wrong_rendezvous_setting_is_refused(text):
    assert "must have a number for" in refused("--rdzv-conf", text).message


@pytest.mark.parametrize("text", ["0", "-1", "2:1", "0:1", "many", "1:2:3", ""])
def test_a_wrong_number_of_nodes_is_refused(text):
    assert refused("--nnodes", text).message.startswith("--nnodes ")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["-m", "--no-python"], "--module and --no-python"),
        (["--no-python", "--run-path"], "--no-python and --run-path"),
        (["-m", "--run-path"], "--module and --run-path"),
        (["--start", "warm", "--no-python"], "--start warm and --no-python"),
        (["--devices", "0", "--nproc-per-node", "2"], "--devices 0 and --nproc-per-node 2"),
        (["--devices", "0", "--nproc-per-node", "cpu"], "--devices 0 and --nproc-per-node cpu"),
        (
            ["--virtual-local-rank", "--nproc-per-node", "cpu"],
            "--virtual-local-rank and --nproc-per-node cpu",
        ),
        (["--standalone", "--nnodes", "2"], "--standalone and --nnodes 2"),
    ],
)
def test_contradictions_name_both_sides_and_what_to_type(argv, named):
    error = refused(*argv)
    assert error.message.startswith(f"{named} contradict each other: ")
    assert error.hint.startswith("Type: python -m launcher ")
    assert error.hint.endswith(" train.py")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--engine", "slurm", "--node-rank", "0"], "--engine slurm and --node-rank 0"),
        (["--engine", "slurm", "--hosts", "a,b"], "--engine slurm and --hosts a,b"),
        (["--engine", "slurm", "--events", "3"], "--engine slurm and --events 3"),
    ],
)
def test_slurm_decides_what_then_need_not_be_typed(argv, named):
    error = refused(*argv)
    assert error.message.startswith(f"{named} contradict each other: ")
    assert error.hint == f"Leave {argv[2]} out."


@pytest.mark.parametrize(
    ("argv", "words", "typed"),
    [
        (["--submit"], "--submit is for --engine slurm", "--engine slurm --submit"),
        (["--time", "5"], "--time 5 is for --engine slurm", "--engine slurm --time 5"),
        (
            ["--engine", "slurm", "--wait"],
            "--wait is for --submit",
            "--engine slurm --submit --wait",
        ),
    ],
)
def test_what_is_slurms_is_not_passed_over_without_it(argv, words, typed):
    error = refused(*argv)
    assert error.message.startswith(words)
    assert f"{typed} train.py" in error.hint


def test_a_contradiction_with_a_variable_names_the_variable():
    error = refused("--no-python", environ={"PET_MODULE": "1"})
    assert error.message.startswith("PET_MODULE=1 and --no-python contradict each other")
    assert error.hint == "Type: unset PET_MODULE"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--devices", "0,0"], "--devices 0,0: must name each GPU once"),
        (["--devices", "0,"], "--devices 0,: must name each GPU once"),
        (["--preload", "torch,a b"], "--preload torch,a b: must be names of modules"),
        (["--node-rank", "1"], "--node-rank 1: must be below the number of nodes"),
        (["--master-port", "0"], "--master-port 0: must be 1 or more"),
        (["--master-port", "65536"], "--master-port 65536: must be a port"),
        (["--local-ranks-filter", "0,x"], "--local-ranks-filter 0,x: must be local ranks"),
        (["--signals-to-handle", "SIGTERM,SIGFOO"], "there is no SIGFOO"),
        (["--signals-to-handle", "SIGKILL"], "must not contain SIGKILL"),
        (["--shutdown-timeout", "-1"], "--shutdown-timeout -1: must be 0 or more"),
        (["--start-method", "thread"], "must be one of: spawn, fork, forkserver"),
        (["--numa-binding", "near"], "must be one of: node, socket, exclusive, core-complex"),
    ],
)
def test_wrong_values_are_refused(argv, problem):
    assert problem in refused(*argv).message


@pytest.mark.parametrize(
    ("text", "streams"),
    [
        ("0", {-1: 0}),
        ("3", {-1: 3}),
        ("0:1,1:2", {0: 1, 1: 2}),
        ("10:3,9:0,127:1", {10: 3, 9: 0, 127: 1}),
    ],
)
def test_streams_are_one_number_or_one_per_local_rank(text, streams):
    assert syntax.parse_streams(text) == streams


@pytest.mark.parametrize(
    "text", ["", "4", "-1", "00", "0:4", "0:", ":1", "0:1,", "0:1,2", "a:1", "-1:1", "0:1:2"]
)
def test_other_streams_are_refused(text):
    assert (
        "must be 0 (none), 1 (stdout), 2 (stderr) or 3 (both)"
        in refused(f"--redirects={text}").message
    )
    assert refused(f"--tee={text}").message.startswith("--tee ")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], [3, 3, 3]),
        (["-r", "3"], [0, 0, 0]),
        (["-r", "1"], [2, 2, 2]),
        (["-r", "0:1,1:2"], [2, 1, 3]),
        (["-r", "3", "-t", "1:3"], [0, 3, 0]),
        (["-t", "3"], [3, 3, 3]),
        (["--local-ranks-filter", "0, 2"], [3, 0, 3]),
        (["--local-ranks-filter", "0", "-r", "2", "-t", "1"], [1, 0, 0]),
    ],
)
def test_redirects_tee_and_filter_decide_what_the_terminal_shows(argv, shown):
    assert [spec_of(*argv).console_streams(rank, rank) for rank in range(3)] == shown


def test_a_filter_for_ranks_that_this_node_does_not_have_is_noted():
    note = spec_of("--local-ranks-filter", "1,7").filter_note(2)
    assert (
        note
        == "--local-ranks-filter 1,7: this node has no local rank 7; its local ranks 0-1 can be"
        " shown"
    )
    assert spec_of("--local-ranks-filter", "0,1").filter_note(2) == ""
    assert spec_of().filter_note(2) == ""


@pytest.mark.parametrize(
    ("argv", "environ", "given"),
    [(["--devices", "0,1"], {}, "--devices 0,1"), ([], {"PET_DEVICES": "0,1"}, "PET_DEVICES=0,1")],
)
def test_devices_on_a_machine_without_a_gpu_are_noted(argv, environ, given):
    spec = spec_of(*argv, environ=environ)
    assert spec.devices_note([]) == (
        f"{given}: this machine shows no NVIDIA GPU; CUDA_VISIBLE_DEVICES is set for the ranks all"
        " the same"
    )
    assert spec.devices_note(["0"]) == ""
    assert spec_of().devices_note([]) == ""


def test_a_double_comma_is_a_comma_in_filters():
    spec = spec_of("--duplicate-stdout-filters", "a,,b,c", "--duplicate-stderr-filters", "")
    assert spec.filters == {"out": (b"a,b", b"c"), "err": ()}


def test_torchruns_own_variables_count_too():
    environ = {
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "${hostname} ",
    }
    spec = spec_of(environ=environ)
    assert (spec.shutdown_timeout, spec.log_line_prefix_template) == (7.0, "${hostname} ")
    assert spec.provenance["shutdown_timeout"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], [3] * 4),
        (["--console-ranks", "all"], [3] * 4),
        (["--console-ranks", "0,2-3"], [3, 0, 3, 3]),
        (["--console-ranks", "0,2", "--redirects", "1"], [2, 0, 2, 0]),
        (["--console-ranks", "0,2", "--local-ranks-filter", "2"], [0, 0, 3, 0]),
    ],
)
def test_the_terminal_shows_the_ranks_that_were_chosen(argv, shown):
    assert [spec_of(*argv).console_streams(rank, rank) for rank in range(4)] == shown


def test_ranks_of_the_whole_run_are_chosen_not_those_of_the_node():
    spec = spec_of("--console-ranks", "5")
    assert [spec.console_streams(local, 4 + local) for local in range(2)] == [0, 3]


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], [3, 2]),
        (["--console-ranks", "all"], [3, 3]),
        (["--tee", "3"], [3, 3]),
        (["--redirects", "0"], [3, 3]),
        (["--local-ranks-filter", "1"], [0, 3]),
    ],
)
def test_of_a_crowd_stdout_of_the_first_is_shown_unless_an_option_says_what(argv, shown):
    spec = spec_of(*argv)
    assert [spec.console_streams(rank, rank, is_crowded=True) for rank in range(2)] == shown


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1,,2", "0-"])
def test_ranks_that_are_no_numbers_are_refused(text):
    assert "must be ranks with commas" in str(refused(f"--console-ranks={text}"))
