"""`LaunchSpec`: what the user asked for, checked; properties give the parsed form of its texts.

A contradiction between options is an error with the command to type. It must not know how anything
is carried out, nor look at the machine: what depends on the number of GPUs or on files is checked
elsewhere.
"""

from __future__ import annotations

from launcher.errors import UsageError
from launcher.options.option import PROG
from launcher.options.syntax import (
    STDERR,
    STDOUT,
    parse_codes,
    parse_conf,
    parse_console_ranks,
    parse_endpoint,
    parse_filters,
    parse_limit,
    parse_nodes,
    parse_ranks,
    parse_signals,
    parse_streams,
    parse_workers,
    select_streams,
)
from launcher.options.table import OptionTable
from launcher.ranks import format_ranks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class LaunchSpec(OptionTable):
    """A launch as it was asked for; UsageError names the flag or variable that is wrong.

    `provenance` maps each option's name to where its value came from: "default", "PET_MAX_RESTARTS"
    or "--max-restarts".
    """

    def validate(self) -> None:
        """Parse every option that has a syntax, then look for contradictions."""
        for name, parse in _SYNTAX.items():
            try:
                parse(getattr(self, name))
            except ValueError as problem:
                raise self.error(name, str(problem)) from None
        _check_nodes(self)
        _check_hosts(self)
        _check_slurm(self)
        _check_devices(self)
        _check_script(self)

    @property
    def min_nodes(self) -> int:
        """The number of nodes without which the run does not go on."""
        return parse_nodes(self.nnodes)[0]

    @property
    def max_nodes(self) -> int:
        """The number of nodes the run may grow to."""
        return parse_nodes(self.nnodes)[1]

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of --rdzv-endpoint; port 0 where none was given."""
        return parse_endpoint(self.rdzv_endpoint)

    @property
    def goes_over_ssh(self) -> bool:
        """Whether this launcher is to start others, on hosts, by ssh."""
        has_hosts = bool(self.hosts) or self.hostfile is not None
        return self.engine == "ssh" or (self.engine == "auto" and has_hosts)

    @property
    def rendezvous_settings(self) -> dict[str, float]:
        """What --rdzv-conf sets of that which has a meaning here."""
        return parse_conf(self.rdzv_conf)

    @property
    def nproc(self) -> int | str:
        """The number of workers per node, or one of "cpu", "gpu" and "auto"."""
        return parse_workers(self.nproc_per_node)

    def local_world_size(self, count_cpus: Callable[[], int], count_gpus: Callable[[], int]) -> int:
        """Return how many workers this node runs; what need not be counted is not counted.

        UsageError when there are no GPUs for `gpu`, or fewer than --backend nccl needs: one for
        each worker; and for
        --backend mpi, whose ranks only an engine can start.
        """
        wanted = self.nproc
        if self.backend == "mpi":
            number = wanted if isinstance(wanted, int) and wanted > 1 else 2
            hint = f"Type: mpirun -np {number} {PROG} --backend mpi {self.script}"
            raise self.error(
                "backend",
                "is for ranks that MPI starts, and this launcher would start them itself",
                hint,
            )
        if wanted == "cpu":
            wanted = count_cpus()
        if isinstance(wanted, int) and self.backend != "nccl":
            return wanted
        num_gpus = len(self.devices) or count_gpus()
        if num_gpus == 0 and (wanted == "gpu" or self.backend == "nccl"):
            number = wanted if isinstance(wanted, int) else 2
            hint = f"Type: {PROG} --nproc-per-node {number} --backend gloo {self.script}"
            raise self.error("nproc_per_node", "needs GPUs, but no GPU is visible here", hint)
        if isinstance(wanted, str):
            return num_gpus or count_cpus()
        if wanted > num_gpus:
            hint = f"Type: {PROG} --nproc-per-node {num_gpus} --backend nccl {self.script}"
            visible = f"{num_gpus} GPU{'s are' if num_gpus > 1 else ' is'} visible here"
            raise self.error("nproc_per_node", f"needs a GPU for each worker, but {visible}", hint)
        return wanted

    @property
    def visible_local_ranks(self) -> frozenset[int] | None:
        """The local ranks whose output the terminal shows; None for all."""
        return parse_ranks(self.local_ranks_filter)

    def filter_note(self, local_world_size: int) -> str:
        """Say which ranks of --local-ranks-filter this node lacks; "" when it has them all.

        Other nodes may have them.
        """
        missing = sorted(
            rank for rank in self.visible_local_ranks or () if rank >= local_world_size
        )
        if not missing:
            return ""
        return (
            f"--local-ranks-filter {self.local_ranks_filter}: this node has no local"
            f" {format_ranks(missing)}; its local {format_ranks(list(range(local_world_size)))} can"
            " be shown"
        )

    def devices_note(self, machine_gpus: Sequence[str]) -> str:
        """Say that --devices names GPUs where the machine has none; "" without it, or with any GPU.

        `machine_gpus` are those of the machine itself: CUDA_VISIBLE_DEVICES, which may name what is
        not there, and which --devices replaces, must not have been asked. No error: images are
        built, and scripts tried, on machines without a driver.
        """
        if not self.devices or machine_gpus:
            return ""
        return (
            f"{_show_given(self, 'devices')}: this machine shows no NVIDIA GPU;"
            " CUDA_VISIBLE_DEVICES is set for the ranks all the same"
        )

    @property
    def shows_all_ranks(self) -> bool:
        """Whether no option says what the terminal is to show."""
        choices = ("console_ranks", "local_ranks_filter", "redirects", "tee")
        return all(self.provenance.get(name, "default") == "default" for name in choices)

    def console_streams(self, local_rank: int, rank: int, *, is_crowded: bool = False) -> int:
        """Return which streams of a worker the terminal shows: the sum of STDOUT and STDERR.

        is_crowded: there are more ranks than a person can read: unless an option says what to show,
        it is stdout of the first one here and of the one that can ask the user, and stderr of all.
        """
        if is_crowded and self.shows_all_ranks:
            return STDOUT | STDERR if local_rank == 0 or rank == self.stdin_rank else STDERR
        visible = self.visible_local_ranks
        if visible is not None and local_rank not in visible:
            return 0
        chosen = parse_console_ranks(self.console_ranks)
        if chosen is not None and rank not in chosen:
            return 0
        redirected = select_streams(parse_streams(self.redirects), local_rank)
        return (STDOUT | STDERR) & ~redirected | select_streams(parse_streams(self.tee), local_rank)

    @property
    def filters(self) -> dict[str, tuple[bytes, ...]]:
        """The texts of `out` and `err` for whose lines there is one more file for all ranks."""
        return {
            "out": parse_filters(self.duplicate_stdout_filters),
            "err": parse_filters(self.duplicate_stderr_filters),
        }

    @property
    def signals(self) -> tuple[int, ...]:
        """The numbers of the signals that stop the workers."""
        return parse_signals(self.signals_to_handle)

    @property
    def restart_window(self) -> tuple[int, float]:
        """The number of restarts and the seconds of --restart-limit; (0, 0) without it."""
        return parse_limit(self.restart_limit)

    @property
    def final_codes(self) -> frozenset[int]:
        """The exit codes that never restart."""
        return parse_codes(self.no_restart_codes)

    def to_argv(self, always: Collection[str] = ()) -> list[str]:
        """Return the whole command line behind the program's name."""
        end = ["--"] if self.script.startswith("-") else []
        return [*super().to_argv(always), *end, self.script, *self.script_args]


def _parse_hosts(text: str) -> object:
    if not text:
        return ()
    from launcher.options.hosts import parse_hosts

    return parse_hosts(text)


_SYNTAX: dict[str, Callable[[str], object]] = {
    "nnodes": parse_nodes,
    "rdzv_endpoint": parse_endpoint,
    "rdzv_conf": parse_conf,
    "hosts": _parse_hosts,
    "nproc_per_node": parse_workers,
    "redirects": parse_streams,
    "tee": parse_streams,
    "local_ranks_filter": parse_ranks,
    "console_ranks": parse_console_ranks,
    "signals_to_handle": parse_signals,
    "restart_limit": parse_limit,
    "no_restart_codes": parse_codes,
}


# Options that say what only one node can be, and why a list of hosts has no use for them.
_ONE_NODE = {
    "standalone": "standalone means this node alone",
    "node_rank": "the hosts have their ranks in the order of the list",
    "local_addr": "each host has addresses of its own",
    "events": "the launchers of the hosts do not have that descriptor",
}


def _check_nodes(spec: LaunchSpec) -> None:
    if spec.max_nodes > 1 and spec.standalone:
        hint = f"Type: {PROG} --nnodes 1 --nproc-per-node {spec.nproc_per_node} {spec.script}"
        raise _contradiction(spec, "standalone", "nnodes", "standalone means one node", hint)
    if spec.node_rank is not None and spec.node_rank >= spec.max_nodes:
        hint = f"Type: {PROG} --node-rank 0 {spec.script}"
        count = f"must be below the number of nodes, which is {spec.max_nodes}"
        if spec.max_nodes > 1:
            hint = f"Type: {PROG} --nnodes {spec.nnodes} --node-rank 0 {spec.script}"
        raise spec.error("node_rank", count, hint)
    for name in ("master_port", "control_port"):
        port = getattr(spec, name)
        if port is not None and port > 65535:
            raise spec.error(name, "must be a port between 1 and 65535")


def _check_hosts(spec: LaunchSpec) -> None:
    if not spec.hosts and spec.hostfile is None:
        return
    name = "hosts" if spec.hosts else "hostfile"
    if spec.hosts and spec.hostfile is not None:
        raise _contradiction(
            spec, "hosts", "hostfile", "each is the whole list", "Leave one of the two out."
        )
    for other, reason in _ONE_NODE.items():
        if spec.provenance.get(other, "default") != "default":
            raise _contradiction(spec, name, other, reason, f"Leave {spec.find_source(other)} out.")


_CHOOSES = "Slurm chooses the nodes and numbers them"

# What goes with no --engine slurm, and why.
_NOT_WITH_SLURM = {
    **dict.fromkeys(("node_rank", "rdzv_endpoint", "hosts", "hostfile", "local_addr"), _CHOOSES),
    "events": "the launchers of the nodes do not have that descriptor",
}

# Options that are Slurm's, and would be passed over in silence without it.
_OF_SLURM = ("submit", "wait", "time", "partition", "account", "gpus_per_node")


def _check_slurm(spec: LaunchSpec) -> None:
    given = [name for name in _OF_SLURM if getattr(spec, name)]
    if spec.engine != "slurm":
        if given:
            typed = " ".join(_show_typed(spec, name) for name in given)
            hint = f"Type: {PROG} --engine slurm {typed} {spec.script}"
            raise UsageError(
                f"{_show_given(spec, given[0])} is for --engine slurm, which is not given.",
                hint=hint,
            )
        return
    if spec.wait and not spec.submit:
        hint = f"Type: {PROG} --engine slurm --submit --wait {spec.script}"
        raise UsageError(
            f"{_show_given(spec, 'wait')} is for --submit, which is not given: srun is waited for"
            " anyway.",
            hint=hint,
        )
    for name, reason in _NOT_WITH_SLURM.items():
        if getattr(spec, name) not in (None, ""):
            hint = f"Leave {spec.find_source(name)} out."
            raise _contradiction(spec, "engine", name, reason, hint)


def _check_devices(spec: LaunchSpec) -> None:
    if len(set(spec.devices)) < len(spec.devices) or "" in spec.devices:
        raise spec.error("devices", "must name each GPU once, with commas between them")
    wanted, count = spec.nproc, len(spec.devices)
    if count and isinstance(wanted, int) and wanted > count:
        reason = f"{wanted} workers cannot have a GPU each"
        hint = f"Type: {PROG} {_show_typed(spec, 'devices')} --nproc-per-node {count} {spec.script}"
        raise _contradiction(spec, "devices", "nproc_per_node", reason, hint)
    for name in ("devices", "virtual_local_rank"):
        if wanted == "cpu" and getattr(spec, name):
            hint = f"Type: {PROG} {_show_typed(spec, name)} --nproc-per-node gpu {spec.script}"
            reason = "one is about GPUs, the other counts CPUs"
            raise _contradiction(spec, name, "nproc_per_node", reason, hint)


def _check_script(spec: LaunchSpec) -> None:
    modes = [name for name in ("module", "no_python", "run_path") if getattr(spec, name)]
    if len(modes) > 1:
        variable = next((s for s in map(spec.find_source, modes) if not s.startswith("-")), None)
        command = f"{PROG} {_show_typed(spec, modes[0])} {spec.script}"
        hint = f"Type: unset {variable}" if variable else f"Type: {command}"
        raise _contradiction(spec, modes[0], modes[1], "SCRIPT can be only one of the two", hint)
    if spec.no_python and spec.start == "warm":
        hint = f"Type: {PROG} --start auto --no-python {spec.script}"
        raise _contradiction(
            spec, "start", "no_python", "only Python scripts can be started warm", hint
        )
    if not all(part.isidentifier() for name in spec.preload for part in name.split(".")):
        raise spec.error("preload", "must be names of modules with commas between them")


def _show_typed(spec: LaunchSpec, name: str) -> str:
    """Return an option as it would be typed: `--start warm`, `--no-python`."""
    field = spec.options[name]
    return field.flag if field.is_switch else f"{field.flag} {field.unparse(getattr(spec, name))}"


def _show_given(spec: LaunchSpec, name: str) -> str:
    """Return an option as it was given: `--devices 0,1`, or the variable `PET_DEVICES=0,1`."""
    source = spec.find_source(name)
    if source.startswith("-"):
        return _show_typed(spec, name)
    return f"{source}={spec.options[name].unparse(getattr(spec, name))}"


def _contradiction(spec: LaunchSpec, first: str, second: str, reason: str, hint: str) -> UsageError:
    both = f"{_show_given(spec, first)} and {_show_given(spec, second)}"
    return UsageError(f"{both} contradict each other: {reason}.", hint=hint)
