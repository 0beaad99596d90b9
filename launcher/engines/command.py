"""What an engine starts on each node: the launcher again, with the options that are a node's.

Owns the way from what the user has typed to the command line of one node's launcher, and to the
variables that it inherits. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from launcher.errors import UsageError
from launcher.options.option import Option
from launcher.options.spec import LaunchSpec
from launcher.plan.interpreter import interpreter_flags

# Names the process whose end ends the run: one above us, and of no meaning elsewhere.
PARENT_VARIABLE = "LAUNCHER_PARENT_PID"

# Of the engine's own, or of the place from which it is called: a node's launcher has no use for
# them. The secret of a run comes to it in a variable.
_NOT_FOR_NODES = (
    *("engine", "hosts", "hostfile", "export", "secret_file", "submit", "wait", "time"),
    *("partition", "account", "gpus_per_node", "engine_args", "dry_run", "die_with_parent"),
)

# They make a process of an engine a launcher, and no rank, also with their default values.
_ALWAYS = ("nnodes", "nproc_per_node")


def make_node_command(spec: LaunchSpec, **changes: object) -> list[str]:
    """Return the command line of one node's launcher; `changes` are options with other values."""
    cleared = {name: spec.options[name].default for name in _NOT_FOR_NODES}
    node = spec.replace(**{**cleared, **changes})
    return [sys.executable, *interpreter_flags(), "-m", "launcher", *node.to_argv(_ALWAYS)]


def make_node_environ(spec: LaunchSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for nodes that inherit ours: without options, with those of --export."""
    left_out = {PARENT_VARIABLE, *option_variables(spec)}
    kept = {name: value for name, value in environ.items() if name not in left_out}
    return {**kept, **dict(read_exports(spec))}


def option_variables(spec: LaunchSpec) -> set[str]:
    """Return the variables that stand for options: a node's command line has their values."""
    options = [option for option in spec.options.values() if option.flags]
    return {name for option in options for name in _variables(option)}


def _variables(option: Option) -> list[str]:
    return [name for name in (option.env, option.also_env) if name]


def read_exports(spec: LaunchSpec) -> list[tuple[str, str]]:
    """Return the variables of --export that have a value there; UsageError for what is no name."""
    pairs = []
    for item in spec.export:
        name, equals, value = item.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"{spec.find_source('export')} {item}: {name!r} is no name of a variable.",
                hint="Type for example: --export HF_HOME,DEBUG=1",
            )
        if equals:
            pairs.append((name, value))
    return pairs


def engine_args(spec: LaunchSpec) -> list[str]:
    """Return the arguments of --engine-args; UsageError where a quote is not closed."""
    if not spec.engine_args:
        return []
    import shlex  # and with it `re`: a launch with nothing to split starts sooner

    try:
        return shlex.split(spec.engine_args)
    except ValueError as problem:
        raise spec.error("engine_args", f"cannot be split into arguments: {problem}") from None
