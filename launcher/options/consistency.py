"""What must hold between options of a launch: each contradiction is an error with the command to type.

It reads a finished spec and changes nothing. It must not look at the machine: what depends on the number
of GPUs or on files is checked elsewhere. Layer 2, pure.
"""

from __future__ import annotations

from launcher.errors import UsageError
from launcher.options.option import PROG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.options.spec import LaunchSpec


def check_consistency(spec: LaunchSpec) -> None:
    """Raise UsageError for the first contradiction, naming both options with their values."""
    _check_nodes(spec)
    _check_devices(spec)
    _check_script(spec)


def _check_nodes(spec: LaunchSpec) -> None:
    if spec.standalone and spec.max_nodes > 1:
        hint = f"Type: {PROG} --nnodes 1 --nproc-per-node {spec.nproc_per_node} {spec.script}"
        raise _contradiction(spec, "standalone", "nnodes", "standalone means one node", hint)
    if spec.max_nodes > 1:
        hint = f"Type: {PROG} --nnodes 1 --nproc-per-node {spec.nproc_per_node} {spec.script}"
        raise spec.error("nnodes", "is more than one node, and this version runs one", hint)
    if spec.node_rank >= spec.max_nodes:
        hint = f"Type: {PROG} --node-rank 0 {spec.script}"
        raise spec.error("node_rank", "must be below the number of nodes, which is 1", hint)
    if spec.master_port is not None and spec.master_port > 65535:
        raise spec.error("master_port", "must be a port between 1 and 65535")


def _check_devices(spec: LaunchSpec) -> None:
    if len(set(spec.devices)) < len(spec.devices) or "" in spec.devices:
        raise spec.error("devices", "must name each GPU once, with commas between them")
    wanted, count = spec.nproc, len(spec.devices)
    if count and isinstance(wanted, int) and wanted > count:
        reason = f"{wanted} workers cannot have a GPU each"
        hint = f"Type: {PROG} {_typed(spec, 'devices')} --nproc-per-node {count} {spec.script}"
        raise _contradiction(spec, "devices", "nproc_per_node", reason, hint)
    for name in ("devices", "virtual_local_rank"):
        if wanted == "cpu" and getattr(spec, name):
            hint = f"Type: {PROG} {_typed(spec, name)} --nproc-per-node gpu {spec.script}"
            reason = "one is about GPUs, the other counts CPUs"
            raise _contradiction(spec, name, "nproc_per_node", reason, hint)


def _check_script(spec: LaunchSpec) -> None:
    modes = [name for name in ("module", "no_python", "run_path") if getattr(spec, name)]
    if len(modes) > 1:
        variable = next((s for s in map(spec.source_of, modes) if not s.startswith("-")), None)
        command = f"{PROG} {_typed(spec, modes[0])} {spec.script}"
        hint = f"Type: unset {variable}" if variable else f"Type: {command}"
        raise _contradiction(spec, modes[0], modes[1], "SCRIPT can be only one of the two", hint)
    if spec.no_python and spec.start == "warm":
        hint = f"Type: {PROG} --start auto --no-python {spec.script}"
        raise _contradiction(spec, "start", "no_python", "only Python scripts can be started warm", hint)
    if not all(part.isidentifier() for name in spec.preload for part in name.split(".")):
        raise spec.error("preload", "must be names of modules with commas between them")


def _typed(spec: LaunchSpec, name: str) -> str:
    """Return an option as it would be typed: `--start warm`, `--no-python`."""
    field = spec.options[name]
    return field.flag if field.is_switch else f"{field.flag} {field.unparse(getattr(spec, name))}"


def _contradiction(spec: LaunchSpec, first: str, second: str, reason: str, hint: str) -> UsageError:
    texts = []
    for name in (first, second):
        source = spec.source_of(name)
        variable = f"{source}={spec.options[name].unparse(getattr(spec, name))}"
        texts.append(_typed(spec, name) if source.startswith("-") else variable)
    return UsageError(f"{texts[0]} and {texts[1]} contradict each other: {reason}.", hint=hint)
