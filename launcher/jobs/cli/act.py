"""Commands that start, stop and mark runs: init, submit, run, wait, cancel, retry, tag, note."""

from __future__ import annotations

import json
import os
import shlex

from launcher.errors import UsageError
from launcher.jobs import again, history, journal, state
from launcher.jobs.cli import compare, search
from launcher.jobs.cli.answer import Answer
from launcher.jobs.cli.look import look_at
from launcher.jobs.cli.table import show_tags
from launcher.jobs.configuration import PyTorchConfiguration, ScriptRunConfig
from launcher.jobs.environment import Environment
from launcher.jobs.experiment import Experiment
from launcher.jobs.follow import follow
from launcher.jobs.run import Run
from launcher.jobs.screen import show
from launcher.jobs.store import find_config
from launcher.jobs.workspace import Workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from launcher.jobs.store import RunFolder

# What `wait` and `run` end with when the run did not end by itself.
CANCELED = 130
TIMED_OUT = 124


def init(options: argparse.Namespace) -> Answer:
    """Make a workspace and the config.json that names it; one that is here already stays."""
    found = find_config()
    here = found and os.path.relpath(found)
    if here and not here.startswith(os.pardir):
        made = Workspace._find()[0]
        wanted = options.name or made.name
        root = os.path.abspath(os.path.expanduser(options.store or made._store.root))
        if (wanted, root) != (made.name, made._store.root):
            raise UsageError(
                f"{here} names the workspace {made.name} in {made._store.root}.",
                hint="Remove that file first, or take another folder.",
            )
        made._store.open_for_writing(made.name)
    else:
        here = os.path.join(".azureml", "config.json")
        made = Workspace.create(options.name or "default", exist_ok=True, store=options.store)
        made.write_config(".")
    return Answer(f"{here}: runs are kept in {made._store.root}", made.get_details())


def submit(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Start a run and print its id."""
    run = _submit(workspace, options)
    return Answer(run.id, {"id": run.id, "folder": run._folder.path})


def run(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Start a run, show its log, and end as it ends."""
    started = _submit(workspace, options)
    if options.json:
        started.wait_for_completion(raise_on_error=False)
        return end_of(started._folder)
    show(f"RunId: {started.id}")
    try:
        for text in follow(started._folder, None):
            show(text, end="")
    except KeyboardInterrupt:
        started.cancel()
        started.wait_for_completion(raise_on_error=False)
    return end_of(started._folder)


def _submit(workspace: Workspace, options: argparse.Namespace) -> Run:
    if options.script == "--" or not options.script:
        raise UsageError("No script was given.", hint="Type: python -m launcher.jobs run train.py")
    environment = None
    if options.env:
        make = (
            Environment.from_conda_specification
            if options.env.endswith((".yml", ".yaml"))
            else Environment.from_pip_requirements
        )
        name = os.path.splitext(os.path.basename(options.env))[0]
        environment = make(name, options.env)
    count = options.nproc_per_node
    config = ScriptRunConfig(
        options.source,
        options.script,
        options.arguments,
        compute_target=options.target,
        environment=environment,
        distributed_job_config=PyTorchConfiguration(process_count=count) if count > 1 else None,
    )
    folder = os.path.basename(os.path.abspath(options.source))
    experiment = Experiment(workspace, options.experiment or _as_name(folder))
    return experiment.submit(
        config,
        dict(map(_pair, options.tag)),
        display_name=options.name,
        launcher_options=shlex.split(options.launcher or ""),
    )


def _as_name(folder: str) -> str:
    name = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in folder)
    return name.lstrip(".-") or "default"


def _pair(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    return key, value if equals else None


def wait(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Wait for the end of a run, and end as it did."""
    folder = search.find_one(workspace, options.run)
    record = state.wait(folder, options.timeout)
    if record is not None and not record.is_over:
        text = f"{folder.run_id} is {record.status}"
        return Answer(text, {"id": folder.run_id, "status": record.status}, TIMED_OUT)
    return end_of(folder)


def end_of(folder: RunFolder) -> Answer:
    """Return how a run has ended, with the exit code that says so."""
    record = state.look(folder)
    if record is None:
        raise UsageError(f"The run {folder.run_id} has gone.")
    code = int((record.end or {}).get("exit_code") or 0)
    if record.status == "Canceled":
        code = CANCELED
    elif record.status == "Failed":
        code = 128 - code if code < 0 else code or 1
    text = f"{folder.run_id} {record.status}" + (f": {record.reason}" if record.reason else "")
    data = {"id": folder.run_id, "status": record.status, "reason": record.reason, "code": code}
    return Answer(text, data, code)


def cancel(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Stop runs, and wait until they have ended."""
    lines, data = [], []
    for wanted in options.runs:
        record = look_at(workspace, wanted)
        if not history.cancel(record):
            lines.append(f"{record.run.run_id} had ended: {record.status}")
        else:
            now = state.wait(record.run, options.timeout) or record
            lines.append(f"{record.run.run_id} {now.status}")
        data.append({"id": record.run.run_id, "said": lines[-1]})
    return Answer("\n".join(lines), data)


def retry(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Run the same code with the same arguments again."""
    record = look_at(workspace, options.run)
    new = again.submit_again(record, is_resumed=options.command == "resume")
    return Answer(new.run_id, {"id": new.run_id, "folder": new.path, "of": record.run.run_id})


def reproduce(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Run the same again, wait, and say whether the same came out."""
    old = look_at(workspace, options.run)
    new = again.submit_again(old)
    state.wait(new)
    record = look_at(workspace, new.run_id)
    found = compare.compare_records([old, record])
    differing = found["metrics"]
    if record.status != old.status:
        verdict, code = f"not reproduced: {old.status} before, {record.status} now", 1
    elif differing:
        verdict, code = f"not reproduced: {', '.join(differing)} differ", 1
    else:
        verdict, code = "reproduced: the same metrics", 0
    text = compare.render_comparison(found, options.width)
    data = {"id": new.run_id, "verdict": verdict, **found}
    return Answer(f"{text}\n\n{verdict}".lstrip(), data, code)


def tag(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Attach tags, or take them off with `KEY-`."""
    folder = search.find_one(workspace, options.run)
    marked = Run._at(folder.path)
    for text in options.tags:
        if text.endswith("-") and "=" not in text:
            marked.remove_tags([text[:-1]])
        else:
            marked.tag(*_pair(text))
    tags: dict[str, Any] = marked.get_tags()
    return Answer(show_tags(tags), tags)


def note(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Add a remark."""
    folder = search.find_one(workspace, options.run)
    text = " ".join(options.text)
    journal.append(folder, "note", text=text)
    return Answer(f"{folder.run_id}: {text}", {"id": folder.run_id, "note": text})


def register(workspace: Workspace, options: argparse.Namespace) -> Answer:
    """Register a file of a run as the next version of a model."""
    found = Run._at(search.find_one(workspace, options.run).path)
    model = found.register_model(options.name, options.path, tags=dict(map(_pair, options.tag)))
    return Answer(model.id, json.loads(json.dumps(model.serialize())))
