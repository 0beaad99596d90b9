"""What will be done: `make_plan` makes a spec and an assignment the workers of one attempt.

Pure: the machine's facts (environment, usable CPUs, GPUs) are arguments. `--dry-run` prints a plan,
tests compare it, and how workers start, what they print and how they stop follows from it alone.
"""

from __future__ import annotations

from launcher.contract import environment
from launcher.contract.files import RunPaths
from launcher.named import NamedTuple
from launcher.options.spec import LaunchSpec
from launcher.options.syntax import STDERR, STDOUT, parse_console_ranks
from launcher.plan.node import NodeFacts
from launcher.plan.program import program_kind
from launcher.plan.task import Task
from launcher.ranks import Assignment, Place, format_ranks

# More ranks on one terminal are too many to read, unless an option says what to show.
CROWD = 8

# A title is an argument itself, of which the kernel takes 128 KiB at most; arguments of the script
# may come close to that.
_MAX_TITLE = 1000


class WorkerPlan(NamedTuple):
    """One worker: what runs, with which environment, and where its output goes."""

    place: Place
    # "script", "module", "package", "run_path" or "command"; see program_kind.
    kind: str
    target: str
    args: tuple[str, ...]
    # Contract variables shared by the node's workers, this worker's own, and names taken away.
    common_env: dict[str, str]
    env: dict[str, str]
    unset: tuple[str, ...]
    error_file: str | None
    # Log file of each stream, and `log` for both (empty when there are none); and whether the
    # terminal shows the stream.
    logs: dict[str, str]
    shown: dict[str, bool]
    title: str
    # The only CPUs that it may use; None for all of the launcher's.
    cpus: frozenset[int] | None = None
    # The process of an engine that the worker stands for; None for one of our own.
    task: Task | None = None

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def local_rank(self) -> int:
        return self.place.local_rank


class LaunchPlan(NamedTuple):
    """One attempt on this node."""

    assignment: Assignment
    workers: tuple[WorkerPlan, ...]
    prefix_template: str | None
    prefix_names: dict[str, str]
    filters: dict[str, tuple[bytes, ...]]
    filtered_logs: dict[str, str]
    shutdown_timeout_s: float
    # Nothing moves for this long: the run is stopped; 0 only warns.
    hang_timeout_s: float
    paths: RunPaths | None
    # Signals that ask a rank to end, and whether no attempt follows whatever happens.
    stop_signals: tuple[int, ...] = ()
    is_last: bool = False
    # Whether ranks have terminals where we have; which one reads our stdin; whose bars are shown.
    tty: bool = True
    stdin_rank: int = 0
    bars: str = "one"
    # As typed: `$RANK` and the like are not replaced yet.
    script_args: tuple[str, ...] = ()

    @property
    def attempt(self) -> int:
        return self.assignment.attempt

    @property
    def node_rank(self) -> int:
        return self.assignment.places[0].node_rank


def make_plan(spec: LaunchSpec, assignment: Assignment, facts: NodeFacts) -> LaunchPlan:
    """Decide everything about one attempt on this node."""
    run = environment.Run(
        run_id=facts.run_id,
        role=spec.role,
        backend=spec.backend,
        max_restarts=spec.max_restarts,
        mark=facts.mark,
        run_dir=facts.paths.run_dir if facts.paths else None,
        hostname=facts.hostname,
        gpus=spec.devices or facts.gpus,
        gpus_are_chosen=bool(spec.devices),
        virtual_local_rank=spec.virtual_local_rank,
        hang_timeout_s=spec.hang_timeout,
        stdin_rank=None if facts.tasks else spec.stdin_rank,
        # Slurm, which has started the job again, has counted that.
        past_restarts=facts.job.requeues,
    )
    common = environment.make_common(run, assignment, facts.environ, facts.usable_cpus)
    workers = tuple(
        _plan_worker(spec, assignment, facts, run, common, place) for place in assignment.places
    )
    paths, filters = facts.paths, spec.filters
    return LaunchPlan(
        assignment=assignment,
        workers=workers,
        prefix_template=spec.log_line_prefix_template,
        prefix_names={"role_name": spec.role, "hostname": facts.hostname},
        filters=filters,
        filtered_logs={
            stream: paths.filtered_log(assignment.attempt, stream)
            for stream in filters
            if paths and filters[stream]
        },
        shutdown_timeout_s=spec.shutdown_timeout,
        hang_timeout_s=spec.hang_timeout,
        paths=paths,
        stop_signals=spec.signals,
        is_last=assignment.attempt >= spec.max_restarts and not assignment.is_elastic,
        tty=not spec.no_tty,
        stdin_rank=spec.stdin_rank,
        bars=spec.bars,
        script_args=spec.script_args,
    )


def _plan_worker(
    spec: LaunchSpec,
    assignment: Assignment,
    facts: NodeFacts,
    run: environment.Run,
    common: dict[str, str],
    place: Place,
) -> WorkerPlan:
    attempt, paths = assignment.attempt, facts.paths
    error_file = paths.error_file(attempt, place.rank) if paths else None
    env = environment.make_per_rank(run, assignment, place, error_file)
    task = facts.tasks[place.local_rank] if facts.tasks else None
    is_crowded = facts.is_terminal and assignment.local_world_size > CROWD
    streams = spec.console_streams(place.local_rank, place.rank, is_crowded=is_crowded)
    # Under --virtual-local-rank $LOCAL_RANK in an argument is what the environment says, too.
    given = task.args if task else spec.script_args
    args = tuple(environment.expand(argument, env) for argument in given)
    unset = environment.select_removed({*common, *env}, facts.environ, is_ours=task is None)
    if task is not None:
        different, missing = environment.compare(task.environ, facts.environ)
        different = {name: different[name] for name in different if name not in unset}
        own = environment.make_common(run, assignment, task.environ, facts.usable_cpus)
        # Alike for all as a rule; but only this rank's user has set what differs.
        own = {
            name: own[name] for name in own if name in different or own[name] != common.get(name)
        }
        env = {**different, **own, **env}
        unset += tuple(name for name in missing if name not in env)
    kind = program_kind(spec)
    return WorkerPlan(
        place=place,
        kind=kind,
        target=spec.script,
        args=args,
        common_env=common,
        env=env,
        unset=unset,
        error_file=error_file,
        logs={stream: paths.log(attempt, place.rank, stream) for stream in ("out", "err", "log")}
        if paths
        else {},
        shown={"out": bool(streams & STDOUT), "err": bool(streams & STDERR)},
        title=_make_title(kind, place, spec.script, args),
        cpus=facts.cpus[place.local_rank] if facts.cpus else None,
        task=task,
    )


def choice_note(spec: LaunchSpec, plan: LaunchPlan, *, is_terminal: bool) -> str:
    """Say what the terminal shows when nobody has chosen, and where the rest is; or "".

    Also that --console-ranks names ranks that the run does not have.
    """
    first, count = plan.workers[0].rank, plan.assignment.local_world_size
    if is_terminal and count > CROWD and spec.shows_all_ranks:
        where = f"; the rest is in {plan.paths.log_dir(plan.attempt)}" if plan.paths else ""
        return (
            f"{count} ranks: showing stdout of rank {first} and stderr of all{where}"
            " (--console-ranks all shows everything)"
        )
    size = plan.assignment.world_size
    chosen = parse_console_ranks(spec.console_ranks) or frozenset()
    missing = sorted(rank for rank in chosen if rank >= size)
    if not missing:
        return ""
    return (
        f"--console-ranks {spec.console_ranks}: there is no {format_ranks(missing)} in this run; it"
        f" has {format_ranks(list(range(size)))}"
    )


def plan_replacement(plan: LaunchPlan, local_rank: int, rank: int, number: int) -> WorkerPlan:
    """Return the worker that takes a lost one's place while the others go on.

    It is the `number`th in this attempt, from 1.

    It has the local rank, and so the device, of the lost one; its rank may be another. Its files
    are its own.
    """
    lost, paths = plan.workers[local_rank], plan.paths
    place = lost.place._replace(rank=rank)
    error_file = paths.error_file(plan.attempt, rank, number) if paths else None
    env = {**lost.env, **environment.make_replacement(rank, plan.attempt + number, error_file)}
    given = lost.task.args if lost.task else plan.script_args
    args = tuple(environment.expand(argument, env) for argument in given)
    return lost._replace(
        place=place,
        env=env,
        args=args,
        error_file=error_file,
        logs={stream: paths.log(plan.attempt, rank, stream, number) for stream in lost.logs}
        if paths
        else {},
        title=_make_title(lost.kind, place, lost.target, args),
    )


def _make_title(kind: str, place: Place, target: str, args: tuple[str, ...]) -> str:
    program = {"command": "", "module": "python -m "}.get(kind, "python ")
    title = f"[rank {place.rank}/{place.world_size}] {program}{' '.join((target, *args))}"
    return title[:_MAX_TITLE]
