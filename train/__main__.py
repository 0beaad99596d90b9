"""`python -m train`: answer --help at once, say which packages are missing, hand everything else to
the trainer.
"""

import sys
from importlib.util import find_spec

from train.options import build_parser

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        build_parser().print_help()
        raise SystemExit(0)
    missing = [name for name in ("torch", "torchvision", "tqdm") if find_spec(name) is None]
    if missing:
        print(
            f"train: error: the trainer needs {', '.join(missing)}, which this Python does not"
            f" have. Type: {sys.executable} -m pip install {' '.join(missing)}",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if sys.stdout is not None:  # closed by the caller
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a class named Krähe is no reason to crash on an ASCII terminal
    from train.trainer import main

    raise SystemExit(main())
