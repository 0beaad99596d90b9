"""The page that tells the story of a launch on one node: join -> plan -> attempt -> settle ->
report -> exit code.

Everything here is a call to somebody else. One node and several run the same lines; only the
coordinator differs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from launcher.attempt.group import Group, NodeServices
from launcher.ctl.service import ControlSocket
from launcher.diagnosis.evidence import Evidence
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import FailureReport, LaunchResult, make_report, render
from launcher.errors import LauncherError
from launcher.horovod.store import HorovodStore
from launcher.horovod.use import horovod_use
from launcher.nodes.coordinator import Coordinator, LocalCoordinator
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.options.spec import LaunchSpec
from launcher.output.console import Console
from launcher.plan.plan import LaunchPlan, NodeFacts, make_plan
from launcher.plan.program import starts_warm
from launcher.ranks import format_ranks
from launcher.runs import folder as run_folder
from launcher.start.server import ServerProcess
from launcher.start.spawn import SpawnStarter
from launcher.start.warm import WarmStarter
from launcher.start.worker import Starter
from launcher.system.files import write_whole
from launcher.system.keeper import Keeper
from launcher.system.loop import Loop
from launcher.system.machine import usable_cpus, visible_gpus
from launcher.system.processes import become_subreaper, die_with_parent, fill_standard_descriptors

# Taken over besides the signals that stop: the forwarded ones, and Ctrl-Z.
_OTHER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP)


def launch(spec: LaunchSpec, server: ServerProcess | None = None) -> LaunchResult:
    """Run all workers of this node until they succeed or are given up, and return how it ended.

    server: a fork server that has been started already, where `starts_warm(spec)`; the caller
    closes it. Must be called in the main thread of a process of its own: it takes over signals,
    children and the standard streams.
    """
    _prepare_process()
    facts, warning = _look_at_node(spec, mark=server.mark if server else "")
    with _open_services(spec, facts) as (services, control):
        for note in filter(None, (warning, spec.filter_note(facts.local_world_size))):
            services.console.say(note)
        coordinator = _make_coordinator(spec, facts, services.loop)
        starter: Starter = (
            WarmStarter(services.loop, facts.mark, server) if starts_warm(spec) else SpawnStarter()
        )
        history: list[str] = []
        attempt, delay_s = 0, 0.0
        try:
            while True:
                plan = make_plan(spec, coordinator.join(attempt), facts, delay_s)
                _open_attempt(plan, starter, spec)
                with Group(plan, starter, services, coordinator.elastic) as group:
                    control.group = group
                    outcome = group.watch()
                    report = None if group.unsafe_reason else _make_report(outcome, facts, history)
                    verdict = (
                        coordinator.settle(outcome, report)
                        if not group.unsafe_reason
                        else Verdict("restart")
                    )
                    if report is not None:
                        report = _announce(report, verdict, facts, services.console, history)
                _tell_survivors(group.outcome(), services.console)
                if group.unsafe_reason:
                    starter = _step_aside(starter, group.unsafe_reason, services.console)
                elif verdict.action == "restart":
                    attempt, delay_s = attempt + 1, verdict.delay_s
                else:
                    break
        finally:
            starter.close()
            coordinator.close()
        result = _settle_result(group.outcome(), report, facts)
        _leave_results(result, facts)
        return result


def dry_run(spec: LaunchSpec) -> str:
    """Return what `launch` would do, as text; starts nothing and leaves nothing on disk."""
    from launcher.plan.dry_run import render_plan

    facts, _ = _look_at_node(spec, make_folder=False)
    coordinator = _make_coordinator(spec, facts)
    plan = make_plan(spec, coordinator.join(0), facts)
    coordinator.close()
    return render_plan(spec, plan, "warm" if starts_warm(spec) else "spawn")


def _prepare_process() -> None:
    fill_standard_descriptors()
    parent = os.environ.pop("LAUNCHER_PARENT_PID", "")
    if parent.isdigit() and not die_with_parent(signal.SIGTERM, int(parent)):
        raise LauncherError("The process that asked for this launch has ended.")
    become_subreaper()
    sys.setswitchinterval(1.0)  # one thread: no need to ask for the lock 200 times a second


def _look_at_node(
    spec: LaunchSpec, *, mark: str = "", make_folder: bool = True
) -> tuple[NodeFacts, str]:
    """Find out what this machine has, and make the run's folder."""
    gpus = visible_gpus(os.environ)
    local_world_size = spec.local_world_size(usable_cpus, lambda: len(gpus))
    _check_descriptors(local_world_size)
    cpus = _cpus_of_workers(spec, local_world_size, gpus)
    run_id = run_folder.new_run_id(spec.rdzv_id)
    paths, warning = None, ""
    if make_folder:
        paths, warning = run_folder.make_run_folder(
            spec.run_dir, spec.log_dir, run_id, local_world_size
        )
    facts = NodeFacts(
        run_id=run_id,
        mark=mark or os.urandom(8).hex(),
        paths=paths,
        usable_cpus=usable_cpus(),
        gpus=tuple(gpus),
        hostname=os.uname().nodename,
        environ=dict(os.environ),
        local_world_size=local_world_size,
        cpus=cpus,
    )
    return facts, warning


def _cpus_of_workers(
    spec: LaunchSpec, local_world_size: int, gpus: Sequence[str]
) -> tuple[frozenset[int], ...]:
    if spec.numa_binding is None:
        return ()
    from launcher.system.numa import cpus_of_workers

    try:
        return cpus_of_workers(
            spec.numa_binding, local_world_size, spec.devices or gpus, os.sched_getaffinity(0)
        )
    except ValueError as problem:
        raise spec.error(
            "numa_binding", str(problem), "Leave it out, or name another one of its values."
        ) from None


def _check_descriptors(local_world_size: int) -> None:
    """Each worker takes two pipes and two log files here: too many are refused before the first one
    starts.
    """
    import resource

    needed, (allowed, most) = 5 * local_world_size + 40, resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        who = f"{local_world_size} workers need" if local_world_size > 1 else "One worker needs"
        problem = f"{who} up to {needed} open files, and the limit here is {allowed}."
        if most != resource.RLIM_INFINITY and most < needed:
            raise LauncherError(
                problem, hint=f"An administrator must raise it: ulimit -Hn {needed}"
            )
        raise LauncherError(problem, hint=f"Type: ulimit -n {needed}")


@contextmanager
def _open_services(
    spec: LaunchSpec, facts: NodeFacts
) -> Iterator[tuple[NodeServices, ControlSocket]]:
    """Open what lives as long as the launch. The console closes first: it must still be able to
    write.
    """
    with (
        Loop((*spec.signals, *_OTHER_SIGNALS)) as loop,
        Keeper(facts.mark) as keeper,
        Evidence() as evidence,
    ):
        console = Console(loop, facts.environ)
        try:
            with ControlSocket(loop, facts, spec) as control:
                yield NodeServices(loop, console, keeper, evidence), control
        finally:
            console.close()


def _make_coordinator(spec: LaunchSpec, facts: NodeFacts, loop: Loop | None = None) -> Coordinator:
    """Make the coordinator; without a loop (a dry run) it serves nothing."""
    chosen = spec.provenance.get("master_addr", "default") != "default"
    policy = RestartPolicy(
        spec.max_restarts, spec.restart_window, spec.restart_backoff, spec.final_codes
    )
    use = horovod_use(spec, facts.environ)
    serve = (lambda: HorovodStore(loop)) if loop and use else None
    return LocalCoordinator(
        facts.local_world_size,
        policy,
        spec.master_addr if chosen else None,
        spec.master_port,
        serve,
        _elastic_timeout_s(facts.environ) if use == "elastic" else 0.0,
    )


def _elastic_timeout_s(environ: Mapping[str, str]) -> float:
    """Return how long ranks of elastic Horovod wait for each other: what its own driver reads, and
    that one's default.
    """
    value = environ.get("HOROVOD_ELASTIC_TIMEOUT", "")
    return float(value) if value.isdecimal() and int(value) else 600.0


def _open_attempt(plan: LaunchPlan, starter: Starter, spec: LaunchSpec) -> None:
    if plan.paths is not None:
        run_folder.prepare_attempt(plan.paths, plan.attempt)
    starter.collect_exits()  # a fork server that died between two attempts is replaced
    if isinstance(starter, WarmStarter) and not starter.is_ready:
        starter.open(plan.workers[0], spec.preload, forced=spec.start == "warm")


def _step_aside(starter: Starter, reason: str, console: Console) -> Starter:
    """Go on without the fork server, and say why."""
    starter.close()
    console.say(f"starting each rank with its own interpreter (--start spawn): {reason}")
    return SpawnStarter()


def _make_report(
    outcome: AttemptOutcome, facts: NodeFacts, history: list[str]
) -> FailureReport | None:
    """Explain a failed attempt; None for a success, and for a stop that somebody asked for."""
    history.extend(outcome.replaced)
    if outcome.succeeded or outcome.signum is not None:
        return None
    run_dir = facts.paths.run_dir if facts.paths else None
    return make_report(outcome, hostname=facts.hostname, run_dir=run_dir)._replace(
        history=tuple(history)
    )


def _announce(
    report: FailureReport, verdict: Verdict, facts: NodeFacts, console: Console, history: list[str]
) -> FailureReport:
    """Say how a failed attempt ended. The report comes at once, before slow workers have ended."""
    summary = f"attempt {report.attempt} ({report.duration_s:.1f} s): {report.summary()}"
    history.append(summary)
    if verdict.action == "restart":
        pause = f" in {verdict.delay_s:.1f} s" if verdict.delay_s else ""
        console.say(f"{summary}; starting all ranks again{pause}")
        return report
    report = report._replace(verdict=verdict.reason)
    if facts.paths is not None:
        write_whole(facts.paths.report, report.to_json())
    console.print_err(render(report, colour=console.colour))
    return report


def _tell_survivors(outcome: AttemptOutcome, console: Console) -> None:
    alive = [worker for worker in outcome.workers if worker.returncode is None and worker.pid]
    if alive:
        pids = ", ".join(str(worker.pid) for worker in alive)
        ranks = format_ranks([worker.rank for worker in alive])
        console.say(
            f"{ranks} (pid {pids}) did not end after SIGKILL: the kernel holds them; the node needs"
            " attention"
        )


def _settle_result(
    outcome: AttemptOutcome, report: FailureReport | None, facts: NodeFacts
) -> LaunchResult:
    if outcome.succeeded:
        exit_code = 0
    elif report is not None:
        exit_code = report.exit_code
    else:
        exit_code = 128 + outcome.signum if outcome.signum else 1
    return LaunchResult(
        exit_code=exit_code,
        run_dir=facts.paths.run_dir if facts.paths else None,
        attempts=outcome.attempt + 1,
        report=report if exit_code else None,
    )


def _leave_results(result: LaunchResult, facts: NodeFacts) -> None:
    """Tidy the run's folder, and tell the process that asked for this launch how it ended."""
    if facts.paths is not None:
        run_folder.tidy(facts.paths, result.attempts)
    wanted = facts.environ.get("LAUNCHER_RESULT_FILE")
    if wanted:
        write_whole(wanted, result.to_json())
