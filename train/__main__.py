"""`python -m train`: the training. Its first page is trainer.py."""

from train.command import begin
from train.options import build_parser

if __name__ == "__main__":
    begin(build_parser())
    from train.trainer import main

    raise SystemExit(main())
