"""The note that a failing worker leaves: which exception, when, with which traceback.

One JSON object per file. Torch's `@record` decorator writes a different object under
TORCHELASTIC_ERROR_FILE; `decode` reads both, and never raises, because a worker can die while it
writes.

Pure encoding; who writes and reads the file is elsewhere.
"""

from __future__ import annotations

from launcher.named import NamedTuple

# Version of the object below. A reader refuses nothing, but a later format can tell itself apart.
_VERSION = 1

_HEADER = "Traceback (most recent call last):"

# What a rank gets when it fetches a batch from a data worker that has gone.
_BROKEN = (
    "ConnectionResetError",
    "ConnectionRefusedError",
    "FileNotFoundError",
    "EOFError",
    "BrokenPipeError",
)


class WorkerError(NamedTuple):
    """Why a worker's script ended, in the worker's own words."""

    type: str  # class name of the exception; "SystemExit" for sys.exit
    message: str
    traceback: str
    # Clock of this node that orders failures; 0 when unknown.
    monotonic_ns: int = 0
    # Whether mpi4py had initialised MPI, which an engine lets its ranks do only once.
    used_mpi: bool = False
    # With which the interpreter ends, unless a signal comes before its end.
    exit_code: int = 1

    @property
    def lost_data_worker(self) -> bool:
        """Whether a data worker of the rank has died.

        Torch says so, or the connection on which it sends batches broke.
        """
        if any(
            "DataLoader worker" in line and "is killed by signal" in line
            for line in self.messages()
        ):
            return True
        return (
            self.type in _BROKEN
            and "utils/data/dataloader.py" in self.traceback
            and "resource_sharer.py" in self.traceback
        )

    def messages(self) -> list[str]:
        """Return the exception's own line, and those of the exceptions that led to it."""
        chain = [
            line
            for line in self.traceback.splitlines()
            if line and not line[0].isspace() and line != _HEADER
        ]
        return [f"{self.type}: {self.message}", *chain]


def encode(error: WorkerError) -> str:
    """Return the text of an error file."""
    fields = {"version": _VERSION, **error._asdict()}
    return "{" + ", ".join(f'"{name}": {_write(value)}' for name, value in fields.items()) + "}"


def _write(value: str | int) -> str:
    """Return a value as JSON has it.

    `json` would cost each rank 3 ms at its start; and when it fails, that name may be its script's.
    """
    if not isinstance(value, str):
        return str(value).lower()
    return '"' + "".join(map(_escape, value)) + '"'


def _escape(letter: str) -> str:
    is_plain = " " <= letter not in '"\\' and not "\ud800" <= letter <= "\udfff"
    return letter if is_plain else f"\\u{ord(letter):04x}"


def decode(text: str) -> WorkerError | None:
    """Read an error file, ours or torch's; None when it is empty, cut off or something else."""
    import json

    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    if "traceback" in data and "type" in data:
        return WorkerError(
            type=str(data["type"]),
            message=str(data.get("message", "")),
            traceback=str(data["traceback"]),
            monotonic_ns=int(data.get("monotonic_ns") or 0),
            used_mpi=bool(data.get("used_mpi")),
            exit_code=int(data.get("exit_code") or 1),
        )
    return _decode_torch(data)


def encode_as_torch(message: str, traceback: str, exit_code: int, time_s: float) -> str:
    """Return what torchrun leaves for a platform that has set TORCHELASTIC_ERROR_FILE around it."""
    import json

    extra = {"py_callstack": traceback, "timestamp": str(int(time_s))}
    return json.dumps({"message": {"message": message, "extraInfo": extra, "errorCode": exit_code}})


def _decode_torch(data: dict[str, object]) -> WorkerError | None:
    # {"message": {"message": "ValueError: x", "extraInfo": {"py_callstack": "..."}}}
    message = data.get("message")
    if not isinstance(message, dict):
        return None
    extra = message.get("extraInfo")
    callstack = extra.get("py_callstack", "") if isinstance(extra, dict) else ""
    text = str(message.get("message", ""))
    kind, _, rest = text.partition(": ")
    return WorkerError(type=kind, message=rest, traceback=str(callstack))


def find_traceback(text: str) -> WorkerError | None:
    """Read the last Python traceback out of what a worker wrote to stderr; None when there is none.

    For workers that leave no error file: commands that are no Python scripts, but run one.
    """
    start = text.rfind(_HEADER)
    if start < 0:
        return None
    # Torch puts "[rank1]: " before every line, and so may others: what stands before the header
    # stands before all.
    margin = text[text.rfind("\n", 0, start) + 1 : start]
    kept: list[str] = []
    for line in text[start - len(margin) :].split("\n"):
        bare = line[len(margin) :] if line.startswith(margin) else line
        kept.append(bare)
        if len(kept) > 1 and bare and not bare[0].isspace():
            kind, _, message = bare.partition(": ")
            return WorkerError(type=kind.strip(), message=message, traceback="\n".join(kept))
    return None
