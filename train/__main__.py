"""`python -m train`: answer --help at once, hand everything else to the trainer."""

import sys

from train.options import build_parser

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        build_parser().print_help()
        raise SystemExit(0)
    from train.trainer import main

    raise SystemExit(main())
