"""From a configuration to a run that goes on by itself: checks, folder, snapshot, agent.

Nothing exists until everything that can be checked has been. The agent is a process of its own,
detached: the end of a notebook's kernel is not the end of its runs.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time

from launcher.jobs import alive, configuration, environment, repro, screen, secret, slurm, snapshot
from launcher.jobs.changes import Changes
from launcher.jobs.engine import PACKAGE_ROOT, without_rank
from launcher.jobs.errors import ComputeTargetException, RunConfigurationException
from launcher.jobs.slots import Slots
from launcher.jobs.store import RunFolder, Store, cannot_write, read_json, write_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Forks at once, so that the agent is nobody's child and who submits has no zombie to wait for. The
# standard library comes first on its path, whatever lies beside the package.
_BOOT = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "sys.path.append(sys.argv[1])\n"
    "from launcher.jobs.agent import main\n"
    "main(sys.argv[2])\n"
)


def submit(
    store: Store, experiment: str, definition: dict[str, Any], source_directory: str, **more: Any
) -> RunFolder:
    """Make a run of a definition and start its agent; return the run's folder.

    more: further entries of run.json: tags, parent, display_name, launcher_options and so on.
    """
    configuration.check(definition, source_directory)
    check_target(store, definition)
    store.open_for_writing()
    with Changes(source_directory) as changes:
        try:
            kept = snapshot.take(store, source_directory)
        except OSError as error:
            raise cannot_write(store.root, error) from None
        warnings = [*kept.notes]
        container = environment.container_asked_for(definition)
        if container:
            warnings.append(
                f"no container is started: the run gets a Python of this machine, not {container}"
            )
        for warning in warnings:
            screen.warn(warning)
        is_dirty = changes.wait()
        if is_dirty:
            changes.facts["git"]["dirty"] = True
        return submit_snapshot(
            store,
            experiment,
            definition,
            kept.id,
            save_diff=changes.save if is_dirty else None,
            source_directory=os.path.abspath(source_directory),
            warnings=warnings,
            **{**changes.facts, **more},
        )


def submit_snapshot(
    store: Store,
    experiment: str,
    definition: dict[str, Any],
    snapshot_id: str,
    *,
    save_diff: Callable[[str], object] | None = None,
    **more: Any,
) -> RunFolder:
    """Make a run of code that is kept already, and start its agent.

    save_diff: writes what that code has that its commit has not.
    """
    definition, secrets = secret.mask_definition(definition)
    environ = {**without_rank(os.environ), **secrets}
    for name in secret.missing_in(definition, environ):
        screen.warn(f"{name} is a secret, which no run keeps: this one goes without it")
    facts = repro.machine_facts()
    meaning = environment.meaning_of(definition, facts["python"], facts["packages"])
    properties = {**more.pop("properties", {}), **({"environment": meaning} if meaning else {})}
    target = read_json(store.join("compute", f"{definition.get('target')}.json")) or {}
    is_slurm = target.get("kind") == slurm.KIND
    run, lock = make_run(
        store,
        experiment,
        "azureml.scriptrun",
        is_slurm=is_slurm,
        definition=definition,
        snapshot=snapshot_id,
        properties=properties,
        **{"interpreter": sys.executable, **more},
    )
    try:
        write_json(run.join("repro.json"), facts)
        if save_diff is not None:
            save_diff(run.diff)
        if is_slurm:
            slurm.hand_over(run, read_json(run.asked), target, environ)
        else:
            _start_agent(run, lock, environ)
    except ComputeTargetException:
        shutil.rmtree(run.path)
        raise
    except OSError as error:
        raise RunConfigurationException(
            f"The agent of {run.run_id} cannot be started: {error.strerror}."
        ) from None
    finally:
        os.close(lock)
    return run


def check_target(store: Store, definition: dict[str, Any]) -> None:
    """Raise when the target is unknown, or can never hold the run."""
    name = definition.get("target") or "local"
    if name == "local":
        return
    settings = read_json(store.join("compute", name + ".json"))
    if settings is None:
        raise ComputeTargetException(
            f"ComputeTargetNotFound: there is no compute target {name} in this workspace.",
            hint="Create it with ComputeTarget.create(...), or take compute_target='local'.",
        )
    shape = configuration.shape_of(definition)
    slots = Slots(store, name)
    wanted = slots.num_wanted(shape.num_nodes, shape.num_processes)
    if slots.limit is not None and wanted > slots.limit:
        raise RunConfigurationException(
            f"The run takes {wanted} slots, but {name} has {slots.limit}: it would wait for ever."
        )


def make_run(
    store: Store, experiment: str, kind: str, *, run_id: str = "", **more: Any
) -> tuple[RunFolder, int]:
    """Make the folder of a new run; return it and the descriptor that holds its lock."""
    store.open_for_writing()
    now = time.time()
    source_directory = more.get("source_directory") or os.getcwd()
    git = {} if "git" in more else repro.git_facts(source_directory)
    try:
        while True:
            run = store.run(run_id or f"{experiment}_{int(now)}_{os.urandom(4).hex()}")
            # Under another name until it is whole: a folder in runs/ always holds a run.
            making = store.run(f".{run.run_id}.{os.getpid()}")
            os.makedirs(making.path)
            for name in ("outputs", "logs", "journal", "metrics"):
                os.mkdir(making.join(name))
            lock = alive.take_lock(making)
            asked = {
                "version": 1,
                "id": run.run_id,
                "experiment": experiment,
                "type": kind,
                "created": now,
                "user": user_name(),
                "submitter": alive.whoami(),
                **git,
                **more,
            }
            write_json(making.asked, asked, is_lasting=True)
            try:
                os.rename(making.path, run.path)
            except OSError:
                if run_id or not os.path.exists(run.path):
                    raise
                continue
            return run, lock
    except OSError as error:
        raise cannot_write(store.root, error) from None


def user_name() -> str:
    """Return who submits; a container may have a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _start_agent(run: RunFolder, lock: int, environ: dict[str, str]) -> None:
    log = os.open(run.join("agent.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, PACKAGE_ROOT, run.path]
    try:
        starter = subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    starter.wait()
