"""`python -m train.export`: a trained model as model.onnx. The command line alone; the work is in
exporting.py, which needs torch.
"""

from __future__ import annotations

import argparse

from train.command import ONNX_PACKAGES, PACKAGES, begin
from train.options import Help, Parser


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog="train.export",
        formatter_class=Help,
        description="Write a trained model as an ONNX file, and prove that it answers alike.",
        epilog=(
            "The file takes batches of any size. Its metadata have the class names and how to"
            " prepare a picture; `python -m\ntrain.predict` reads it, too. Exit codes: 0 written;"
            " 2 wrong options, no model, or answers that differ."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="model.pt of a training")
    parser.add_argument("onnx", metavar="ONNX", help="the file to write")
    parser.add_argument(
        "--pictures",
        nargs="+",
        default=[],
        metavar="PICTURE|FOLDER",
        help=(
            "compare on these (default: the validation pictures that predictions.json beside MODEL"
            " names)"
        ),
    )
    return parser


if __name__ == "__main__":
    begin(build_parser(), (*PACKAGES, *ONNX_PACKAGES))
    from train.exporting import main

    raise SystemExit(main())
