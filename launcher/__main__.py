"""`python -m launcher`: run the command, safe from the files of the current folder.

Python puts the current folder first in `sys.path` for `-m`. A user's `random.py` or `select.py`
there would be imported in place of the standard library's. Workers get a path of their own; we need
nothing from there.
"""

import sys

if __name__ == "__main__":
    if sys.path and not getattr(sys.flags, "safe_path", False):
        _folder = sys.path.pop(0)
        if __file__.startswith(_folder + "/launcher/"):
            # The package itself lives in the current folder: keep it, behind the standard library.
            sys.path.append(_folder)
    try:
        from launcher.cli import main

        _code = main()
        if "launcher.worker.bootstrap" not in sys.modules:
            # No code of the user's has run here: there is nothing that the interpreter's tear-down,
            # 8 ms, could be good for.
            import os

            try:
                for _stream in filter(None, (sys.stdout, sys.stderr)):
                    _stream.flush()
            except OSError:
                sys.exit(_code)  # python says what is wrong
            os._exit(_code)
        sys.exit(_code)
    except KeyboardInterrupt:
        sys.exit(130)
