"""`python -m launcher.worker.call DIR`: the worker's side of launcher.launch(function).

Owns the file names in the private folder DIR and their meaning: what to call, what each rank
returned. Imports nothing of this package: the warm start reads this source for heavy modules, and
the function may need none.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

# The caller's sys.path, needed first: the function may refer to modules that only the caller finds.
PATH_FILE = "sys_path.pickle"
# The function, its arguments and its keyword arguments, as cloudpickle writes them.
CALL_FILE = "call.pickle"


def result_file(folder: str, rank: int) -> str:
    """Return where this rank leaves what the function returned, whole or not at all."""
    return os.path.join(folder, f"result_{rank}.pickle")


def write_private(path: str, data: bytes) -> None:
    """Write a file that only this user can read, under its name only when it is complete."""
    # As system/files.py does it, which is not imported: see above.
    temporary = f"{path}.tmp"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def main(folder: str) -> None:
    """Call the function and leave its result; its exceptions go their way, as from any script."""
    sys.path[:] = [*_load(os.path.join(folder, PATH_FILE)), *sys.path]
    rank = int(os.environ["RANK"])
    function, args, kwargs = _load(os.path.join(folder, CALL_FILE))
    # The folder is nothing that a function which reads its arguments should find there.
    sys.argv = [""]
    result = function(*args, **kwargs)
    write_private(result_file(folder, rank), _dump(result, rank))


def _load(path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


def _dump(result: Any, rank: int) -> bytes:
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(result)
    except Exception as error:  # whatever the object's own code raises
        problem = (
            f"The result of rank {rank}, a {type(result).__qualname__}, cannot be pickled: {error}"
        )
        raise TypeError(problem) from None
    return data


if __name__ == "__main__":
    main(sys.argv[1])
