"""`azureml` for the scripts of a run: the run layer's names where the real package is absent.

Only scripts that import it come here. A real one that is installed, also as a namespace of several
packages, takes this module's place.
"""

import importlib
import importlib.machinery
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
_others = [path for path in sys.path if os.path.abspath(path or ".") != _here]

if importlib.machinery.PathFinder.find_spec("azureml", _others) is not None:
    sys.path[:] = _others
    del sys.modules["azureml"]
    importlib.import_module("azureml")
else:
    from launcher.jobs import names

    __path__: list[str] = []
    names.install("azureml")
