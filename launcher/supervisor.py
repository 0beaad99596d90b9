"""The page of a launch on one node: join -> plan -> attempt -> settle -> report -> exit code.

Everything here is a call to somebody else. One node and several run the same lines; only the
coordinator differs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.attempt.group import Group
from launcher.attempt.node import QUIET_VARIABLE, NodeServices, shares_screen
from launcher.attempt.sampling import Sampling
from launcher.attempt.stop import FORWARDED_SIGNALS, Kernel, StopRequest
from launcher.attempt.waiting import Lobby, WaitingRoom
from launcher.contract.files import RunPaths
from launcher.ctl.service import ControlSocket
from launcher.diagnosis.evidence import Evidence
from launcher.diagnosis.outcome import AttemptOutcome
from launcher.diagnosis.report import LaunchResult
from launcher.errors import LauncherError
from launcher.nodes.coordinator import LocalCoordinator
from launcher.nodes.restart import RestartPolicy, Verdict
from launcher.options.spec import LaunchSpec
from launcher.output.console import Console, heed_answers, make_consoles
from launcher.plan.node import NodeFacts, look_at_member, look_at_node
from launcher.plan.plan import LaunchPlan, choice_note, make_plan
from launcher.plan.program import horovod_use, starts_warm
from launcher.ranks import Assignment, format_ranks, make_places
from launcher.record.record import Record
from launcher.runs import folder as run_folder
from launcher.start.spawn import SpawnStarter
from launcher.starters.detect import find_mpi_engine
from launcher.system.bare import become_subreaper, die_with_parent, fill_standard_descriptors
from launcher.system.files import write_whole
from launcher.system.keeper import Keeper
from launcher.system.loop import Loop
from launcher.system.machine import visible_gpus
from launcher.system.parent import watch_parent
from launcher.system.processes import allow_open_files, keep_freed_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.attached.host import Together
    from launcher.horovod.service import HorovodService
    from launcher.nodes.remote import RemoteCoordinator
    from launcher.start.server import ServerProcess
    from launcher.start.starter import Starter

# Taken over besides the signals that stop: the forwarded ones, and Ctrl-Z.
_OTHER_SIGNALS = (*FORWARDED_SIGNALS, signal.SIGTSTP)


def launch(
    spec: LaunchSpec,
    server: ServerProcess | None = None,
    together: Together | None = None,
    orders: int | None = None,
) -> LaunchResult:
    """Run all workers of this node until they succeed or are given up, and return how it ended.

    server: a fork server that has been started already, where `starts_warm(spec)`; the caller
    closes it. together: the processes of an engine that the workers stand for. orders: a descriptor
    on which somebody speaks who has started all nodes.

    Must be called in the main thread of a process of its own: it takes over signals,
    children and the standard streams.
    """
    parent = _prepare_process(spec)
    facts = _look(spec, together, server.mark if server else "")
    folder = run_folder.RunFolder(spec.run_dir, spec.log_dir, facts.run_id, facts.job)
    if facts.nodes is None:
        folder.claim()
    with _open_services(spec, facts, together, orders) as (node, control):
        coordinator = _make_coordinator(spec, facts, folder, together, node)
        node = node._replace(peers=coordinator.peers)
        control.join(coordinator.peers)
        if parent:
            watch_parent(parent, node.loop, node.console.say)
        for note in filter(None, _notes(spec, facts)):
            node.console.say(note)
        starter = _make_starter(spec, facts, node, server)
        num_attempts, verdict = 0, Verdict("restart")
        try:
            while verdict.action == "restart" and node.stop_request.signum is None:
                lobby = Lobby(starter, node, spec.signals)
                assignment = coordinator.join(num_attempts, lobby.turn)
                if assignment is None:
                    final = coordinator.verdict()
                    verdict = _announce(final, facts, node) if final else verdict
                    break
                facts = _take_folder(facts, folder, assignment, node.console)
                plan = make_plan(spec, assignment, facts)
                node.stop_request.is_quiet = plan.node_rank > 0 and shares_screen(facts)
                _open_starter(plan, starter, spec)
                if num_attempts == 0:
                    _tell_choice(plan, spec, facts, node)
                node.record.begin_attempt(plan, spec, facts)
                control.run_id, control.group = facts.run_id, WaitingRoom(plan, starter, node)
                starter = control.group.wait(verdict.delay_s)
                if node.stop_request.signum is not None:
                    break
                with Group(plan, starter, node, coordinator.elastic) as control.group:
                    verdict = coordinator.settle(control.group.run(), control.group.turn)
                    verdict = _announce(verdict, facts, node)
                _tell_survivors(control.group.outcome(), node.console)
                num_attempts = assignment.attempt + 1
            if node.sampling:
                node.sampling.show_summary()
        finally:
            starter.close()
            coordinator.close()
        if verdict.action == "restart" and node.stop_request.signum is not None:
            # A signal came before the next attempt had begun: this one was stopped, not failed.
            verdict = Verdict("give_up", exit_code=128 + node.stop_request.signum)
        result = _make_result(verdict, num_attempts, facts)
        _leave_results(result, verdict, facts, spec, node)
        return result


def dry_run(spec: LaunchSpec, together: Together | None = None) -> str:
    """Return what `launch` would do, as text; starts nothing and leaves nothing on disk."""
    from launcher.plan.dry_run import render_plan

    facts = _look(spec, together)
    if facts.nodes is None:
        coordinator = _make_local(spec, facts, None, together)
        assignment = coordinator.join(0)
        coordinator.close()
    else:
        from launcher.plan.nodes import preview

        places = tuple(task.place for task in facts.tasks)
        assignment = preview(facts.nodes, facts.local_world_size, places)
    plan = make_plan(spec, assignment, facts)
    return render_plan(spec, plan, "warm" if _is_warm(spec, facts) else "spawn", facts.nodes)


def _look(spec: LaunchSpec, together: Together | None, mark: str = "") -> NodeFacts:
    if together is None:
        return look_at_node(spec, mark)
    facts = look_at_node(spec, mark, together.tasks, together.run_id)
    return facts._replace(nodes=together.nodes)


def _is_warm(spec: LaunchSpec, facts: NodeFacts) -> bool:
    return starts_warm(spec, len(facts.tasks) or None)


def _prepare_process(spec: LaunchSpec) -> int:
    """Make this process what a supervisor has to be; return the one whose end ends the run, or 0.

    Without --die-with-parent, the kernel sees to that where a process has asked for it.
    """
    fill_standard_descriptors()
    parent = os.environ.pop("LAUNCHER_PARENT_PID", "")
    if spec.die_with_parent:
        above = int(parent) if parent.isdigit() else os.getppid()
    else:
        above = 0
        if parent.isdigit() and not die_with_parent(signal.SIGTERM, int(parent)):
            raise LauncherError("The process that asked for this launch has ended.")
    become_subreaper()
    allow_open_files(for_children=False)
    keep_freed_memory()
    sys.setswitchinterval(1.0)  # one thread: no need to ask for the lock 200 times a second
    return above


@contextmanager
def _open_services(
    spec: LaunchSpec, facts: NodeFacts, together: Together | None, orders: int | None
) -> Iterator[tuple[NodeServices, ControlSocket]]:
    """Everything that lives as long as the launch; the consoles close before their loop does."""
    with (
        Loop((*spec.signals, *_OTHER_SIGNALS)) as loop,
        Keeper(facts.mark) as keeper,
        Evidence() as evidence,
    ):
        consoles = make_consoles(
            loop, facts, fold=spec.fold, quiet=spec.quiet, timestamps=spec.timestamps
        )
        console, crew = consoles[0], together.crew if together else None
        if crew is not None:
            crew.open(loop)
        record = Record(loop, spec.events)
        try:
            with (
                ControlSocket(loop, facts, spec) as control,
                heed_answers(loop, console, facts.environ),
            ):
                request = StopRequest(
                    console.say,
                    comes_twice=bool(facts.environ.get("SLURM_JOB_ID")),
                    is_quiet=facts.environ.get(QUIET_VARIABLE) == "1",
                )
                if orders is not None:
                    control.take_orders(orders)
                services = (loop, console, keeper, evidence, request, Kernel(), record)
                sampling = Sampling(loop, console, facts.hostname, has_summary=spec.stats)
                control.consoles, control.sampling = consoles, sampling
                yield NodeServices(*services, crew, consoles, sampling=sampling), control
                sampling.close()
        except LauncherError as error:
            record.end(LaunchResult(error.exit_code, error=error), None)
            raise
        finally:
            record.close()
            for each in consoles:
                each.close()


def _make_coordinator(
    spec: LaunchSpec,
    facts: NodeFacts,
    folder: run_folder.RunFolder,
    together: Together | None,
    node: NodeServices,
) -> LocalCoordinator | RemoteCoordinator:
    """Make who answers for the run: this node alone, or all of them together."""
    if facts.nodes is None:
        return _make_local(spec, facts, folder.paths, together, node.loop)
    from launcher.nodes.remote import open_remote

    def tell(text: str) -> None:
        node.console.say(text)
        node.record.note("nodes", text=text)

    remote = open_remote(
        facts.nodes,
        look_at_member(spec, facts),
        _make_policy(spec),
        node.loop,
        tell,
        folder.claim,
        _make_horovod(spec, facts, node.loop),
    )
    if spec.stats and node.sampling:
        remote.last_words = node.sampling.show_summary
    return remote


def _make_policy(spec: LaunchSpec) -> RestartPolicy:
    return RestartPolicy(
        spec.max_restarts, spec.restart_window, spec.restart_backoff, spec.final_codes
    )


def _make_local(
    spec: LaunchSpec,
    facts: NodeFacts,
    paths: RunPaths | None,
    together: Together | None,
    loop: Loop | None = None,
) -> LocalCoordinator:
    """Make the coordinator of one node; without a loop (a dry run) it serves nothing."""
    master: tuple[str | None, int | None] = None, spec.master_port
    if spec.provenance.get("master_addr", "default") != "default":
        master = spec.master_addr, spec.master_port
    elif together is not None and together.master is not None:
        master = together.master
    places = tuple(task.place for task in facts.tasks)
    return LocalCoordinator(
        places or make_places(0, (facts.local_world_size,)),
        _make_policy(spec),
        *master,
        _make_horovod(spec, facts, loop) if loop else None,
        facts.hostname,
        paths.run_dir if paths else None,
    )


def _make_horovod(spec: LaunchSpec, facts: NodeFacts, loop: Loop) -> HorovodService | None:
    """Make what a program that uses Horovod needs; None for every other."""
    use = horovod_use(spec, facts.environ)
    # Lost ranks are replaced on one node only: on several, all start again.
    is_elastic = use == "elastic" and spec.max_restarts > 0 and facts.nodes is None
    # Where an engine has started them for MPI, ranks meet over that.
    if not use or (facts.tasks and find_mpi_engine(facts.environ) and not is_elastic):
        return None
    from launcher.horovod.service import HorovodService

    return HorovodService(loop, facts.environ, is_elastic=use == "elastic" and facts.nodes is None)


def _open_starter(plan: LaunchPlan, starter: Starter, spec: LaunchSpec) -> None:
    starter.collect_exits()  # a fork server that died between two attempts is replaced
    if not starter.is_ready:
        from launcher.start.warm import WarmStarter

        assert isinstance(starter, WarmStarter)
        starter.open(plan.workers[0], spec.preload, forced=spec.start == "warm")


def _tell_choice(plan: LaunchPlan, spec: LaunchSpec, facts: NodeFacts, node: NodeServices) -> None:
    """Say which ranks the terminal does not show, where that may surprise."""
    note = choice_note(spec, plan, is_terminal=facts.is_terminal)
    if note and not node.stop_request.is_quiet:
        node.console.say(note)


def _notes(spec: LaunchSpec, facts: NodeFacts) -> tuple[str, ...]:
    """Say what was decided, and which options do not go with this machine: texts, or ""."""
    gpus = visible_gpus({}) if spec.devices else ()
    of_nodes = facts.nodes.note if facts.nodes else ""
    return of_nodes, spec.filter_note(facts.local_world_size), spec.devices_note(gpus)


def _make_starter(
    spec: LaunchSpec, facts: NodeFacts, node: NodeServices, server: ServerProcess | None
) -> Starter:
    if server is not None and facts.tasks:
        # Its parent was bound to what one rank may use; by now it may use what all may.
        os.sched_setaffinity(server.pid, os.sched_getaffinity(0))
    if _is_warm(spec, facts):
        from launcher.start.warm import WarmStarter

        return WarmStarter(node.loop, facts.mark, node.console.say, server)
    return SpawnStarter()


def _take_folder(
    facts: NodeFacts, folder: run_folder.RunFolder, assignment: Assignment, console: Console
) -> NodeFacts:
    """Return the facts with the folder of the run, whose name the nodes have agreed on."""
    if assignment.run_name:
        folder.adopt(assignment.run_name)
        if facts.nodes is not None and not facts.nodes.has_id:
            facts = facts._replace(run_id=assignment.run_name)
    folder.open_attempt(assignment.attempt)
    if folder.warning:
        console.say(folder.warning)
        folder.warning = ""
    paths = folder.paths
    return facts._replace(paths=paths and paths._replace(world_size=assignment.world_size))


def _announce(verdict: Verdict, facts: NodeFacts, node: NodeServices) -> Verdict:
    """Say how an attempt ended, if it has failed."""
    node.record.note_verdict(verdict)
    if verdict.report is None and verdict.action != "restart":
        return verdict
    from launcher.attempt.news import announce

    return announce(verdict, facts, node)


def _tell_survivors(outcome: AttemptOutcome, console: Console) -> None:
    alive = [worker for worker in outcome.workers if worker.returncode is None and worker.pid]
    if alive:
        pids = ", ".join(str(worker.pid) for worker in alive)
        ranks = format_ranks([worker.rank for worker in alive])
        console.say(
            f"{ranks} (pid {pids}) did not end after SIGKILL: the kernel holds them; the node needs"
            " attention"
        )


def _make_result(verdict: Verdict, num_attempts: int, facts: NodeFacts) -> LaunchResult:
    return LaunchResult(
        exit_code=verdict.exit_code,
        run_dir=facts.paths.run_dir if facts.paths else None,
        attempts=num_attempts,
        report=verdict.report if verdict.exit_code else None,
    )


def _leave_results(
    result: LaunchResult, verdict: Verdict, facts: NodeFacts, spec: LaunchSpec, node: NodeServices
) -> None:
    """Leave the run's folder as it stays, and tell who wants to know how the run has ended."""
    goes_on = verdict.action == "leave"
    if facts.paths is not None and not goes_on:
        run_folder.tidy(facts.paths, result.attempts)
    node.record.end(result, node.stop_request.signum)
    wanted = facts.environ.get("LAUNCHER_RESULT_FILE")
    if wanted:
        write_whole(wanted, result.to_json())
    if facts.paths is None or node.record.node != 0 or goes_on:
        return  # where nodes share the folder, one does it
    if spec.keep:
        from launcher.runs.keep import remove_old

        remove_old(os.path.dirname(facts.paths.run_dir), spec.keep)
    if spec.on_end or spec.on_failure:
        from launcher.record.notify import Notifier

        notifier = Notifier(node.loop, spec.signals, node.keeper.add_session, node.console.say)
        notifier.tell(spec, facts.paths, result)
