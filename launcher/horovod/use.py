"""Whether a script uses Horovod, and how: seen in its text, which is never run. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def find_use(script: bytes, environ: Mapping[str, str], *, is_certain: bool) -> str:
    """Return `elastic` or `fixed`; "" where the script does not use Horovod.

    is_certain: that it does is known from elsewhere.
    """
    lines = [line.strip() for line in script.split(b"\n")]
    if not is_certain and not any(_names_horovod(line) for line in lines):
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
