"""Whether a program uses Horovod, and how: said by its options, or seen in its script.

The script is read only where the options leave it open, and never run. What follows from the answer
is the callers' matter: the supervisor serves a store, a rank of an engine needs MPI.
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.options.spec import LaunchSpec

# How much of a script is searched for an import of Horovod.
_SEARCHED_BYTES = 1 << 20


def horovod_use(spec: LaunchSpec, environ: Mapping[str, str]) -> str:
    """Return `elastic` where the program uses hvd.elastic, `fixed` where Horovod without it, and ""
    where none.

    It must be known before the ranks start: without Horovod's store, or MPI, each would train
    alone.
    """
    if spec.backend not in ("auto", "horovod"):
        return ""
    lines = [] if spec.no_python or spec.module or spec.run_path else _script_lines(spec)
    if spec.backend == "auto" and not any(_names_horovod(line) for line in lines):
        return ""
    said = environ.get("HOROVOD_ELASTIC", "").lower()
    is_elastic = said in ("1", "true") if said else any(_names_elastic(line) for line in lines)
    return "elastic" if is_elastic else "fixed"


def _names_horovod(line: bytes) -> bool:
    if line.startswith((b"import ", b"from ")):
        return b"horovod" in line
    # launcher.init(backend="horovod"), on one line or on several.
    is_call = b"init(" in line or line.startswith(b"backend=")
    return is_call and (b'"horovod"' in line or b"'horovod'" in line)


def _names_elastic(line: bytes) -> bool:
    # torch.distributed.elastic is something else.
    code = line.partition(b"#")[0]
    if code.startswith((b"import ", b"from ")):
        return b"horovod" in code and b"elastic" in code
    return any(b"elastic." + name in code for name in (b"run", b"TorchState", b"ElasticSampler"))


def _script_lines(spec: LaunchSpec) -> list[bytes]:
    """Return the lines of the script, stripped; none of a folder, or of a script that has gone."""
    try:
        with open(spec.script, "rb") as file:
            return [line.strip() for line in file.read(_SEARCHED_BYTES).split(b"\n")]
    except OSError:
        return []
