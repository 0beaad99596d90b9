"""`python -m train.predict`: what a trained model says of pictures. The command line alone; the
work is in prediction.py, which needs torch.
"""

from __future__ import annotations

import argparse

from train.command import begin
from train.options import Help, Parser, number, workers


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog="train.predict",
        formatter_class=Help,
        description="Print the class and the probability of each picture.",
        epilog=(
            "A folder with one folder for each class, named as the model's classes are, is"
            " labelled: accuracy and a\nconfusion matrix of its pictures come last. Pictures that"
            " cannot be read are named on stderr and left out.\nExit codes: 0 predicted; 1 there"
            " was nothing that could be predicted; 2 wrong options, or no model."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="model.pt or model.onnx of a training")
    parser.add_argument(
        "paths", nargs="+", metavar="PICTURE|FOLDER", help="of a folder, all pictures below it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.add_argument(
        "--top", type=number(int, 1), default=1, metavar="K", help="name the K likeliest classes"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "auto", "bf16"),
        default="fp32",
        help="auto: bfloat16 where the processor computes in it, which is faster, else float32",
    )
    parser.add_argument(
        "--workers",
        type=workers,
        default="auto",
        metavar="N",
        help="threads per rank that prepare pictures ahead; auto: none on a CPU, up to 8 for a GPU",
    )
    return parser


if __name__ == "__main__":
    begin(build_parser())
    from train.prediction import main

    raise SystemExit(main())
