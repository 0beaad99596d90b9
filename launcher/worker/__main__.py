"""Entry of every process that the supervisor starts, run by path: a worker, or the fork server.

python __main__.py run KIND PARENT_PID TITLE TARGET [ARGS...]      a worker, started by exec
python __main__.py forkserver SOCKET_FD PARENT_PID ROOM            the fork server

Python compiles what is run by path at each start: so all else stands in entry.py.
"""

import os
import sys

_loaded_by_python = set(sys.modules)

if __name__ == "__main__":
    import _signal  # type: ignore[import-not-found]  # which `signal` is made of, in 2 ms

    # Ctrl-C while we prepare ends the process quietly; the script will find python's handler.
    _on_interrupt = _signal.getsignal(_signal.SIGINT)
    if _on_interrupt is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    # Run by path, python has put this folder first: our modules would shadow the user's.
    _folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == _folder:
        del sys.path[0]
    sys.path.insert(0, os.path.dirname(os.path.dirname(_folder)))
    import launcher.worker  # noqa: F401  (see below)

    # The package knows by now where its modules are. Installed, its parent holds all kinds of
    # others, which must not come before python's own.
    del sys.path[0]
    from launcher.worker.entry import main

    main(sys.argv[1:], _loaded_by_python, _on_interrupt)
