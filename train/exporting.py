"""The export, to be read from top to bottom once: translate the network, prove that both answer
alike on real pictures, write the file.

The work is one process's: rank 0 after a training. Owns the proof: a file whose answers differ is
not written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from train.checkpoint import Output
from train.classifier import Classifier, load_classifier
from train.command import ONNX_PACKAGES, require_packages
from train.errors import EXIT_USAGE, TrainerError, one_line
from train.export import build_parser
from train.files import whole_file
from train.model_file import load_model
from train.onnx_file import BATCH, INPUT, OUTPUT, OnnxNetwork, metadata_of
from train.pictures import Unreadable, decode, validation_crop
from train.plot import read_predictions
from train.prediction import list_pictures

if TYPE_CHECKING:
    from launcher import Context
    from train.folder import Folder

MOST_DIFFERENCE = 1e-4  # of two logits in float32; rounding alone stays far below
COMPARED = 32  # pictures
TOGETHER = 5  # pictures in a batch; no divisor of COMPARED, so that two sizes are tried


# -- translation -----------------------------------------------------------------------------------


def translate(classifier: Classifier, metadata: dict[str, str]) -> bytes:
    """The content of the ONNX file; raises TrainerError if torch cannot translate the network."""
    import onnx

    size = classifier.image_size
    try:
        program = torch.onnx.export(
            classifier.network,
            (torch.zeros(2, 3, size, size),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            dynamo=True,
            verbose=False,
        )
        model = program.model_proto
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # whatever torch's translator and onnx's checker raise
        raise TrainerError(f"the network cannot be written as ONNX ({one_line(error)}).") from error
    return bytes(model.SerializeToString())


# -- proof -----------------------------------------------------------------------------------------


def pictures_of_training(model: str) -> list[str]:
    """The validation pictures of the training that wrote `model`, the worst first; none if they
    are not there any more.
    """
    path = os.path.join(os.path.dirname(model), "predictions.json")
    predictions = read_predictions(path) or {"pictures": []}
    paths = [os.path.join(predictions["data"], p["path"]) for p in predictions["pictures"]]
    return [path for path in paths if os.path.isfile(path)]


def read_pictures(paths: Sequence[str], classifier: Classifier) -> list[Tensor]:
    """The first readable pictures as the network takes them, each (1, 3, H, W)."""
    found: list[Tensor] = []
    for path in paths:
        if len(found) == COMPARED:
            break
        try:
            picture = decode(path, classifier.image_size)
        except Unreadable:
            continue
        cut = np.array(validation_crop(picture, classifier.image_size, classifier.resize))
        found.append(classifier.normalise(torch.from_numpy(cut[None])))
    return found


def batches(pictures: Sequence[Tensor]) -> Iterator[Tensor]:
    """The pictures in batches of TOGETHER; the last has what is left."""
    for first in range(0, len(pictures), TOGETHER):
        yield torch.cat([*pictures[first : first + TOGETHER]])


@torch.inference_mode()  # type: ignore[untyped-decorator]
def largest_difference(
    classifier: Classifier, onnx: OnnxNetwork, images: Sequence[Tensor]
) -> float:
    """Of all numbers that the two answer."""
    differences = [
        (classifier.network(batch) - onnx(batch)).abs().max() for batch in batches(images)
    ]
    return float(torch.stack(differences).max())


# -- the story -------------------------------------------------------------------------------------


def export(model: str, target: str, paths: Sequence[str]) -> str:
    """Write `model` as the ONNX file `target`, and return what the comparison on the pictures
    `paths` says.

    Raises TrainerError; `target` is then as it was.
    """
    require_packages(ONNX_PACKAGES, what="the export")
    content: dict[str, Any] = load_model(model)
    classifier = load_classifier(model, torch.device("cpu"))
    images = read_pictures(paths, classifier)
    if not images:
        raise TrainerError(
            "there is no picture to compare the answers on. Name some with `--pictures FOLDER`."
        )
    translated = translate(classifier, metadata_of(content))
    difference = largest_difference(classifier, OnnxNetwork(translated), images)
    said = f"largest difference to torch {difference:.1e} on {len(images)} pictures"
    if not difference <= MOST_DIFFERENCE:  # also no number
        raise TrainerError(f"{target} is not written: {said}, more than {MOST_DIFFERENCE:.0e}.")
    try:
        with whole_file(target) as file:
            file.write(translated)
    except OSError as error:
        raise TrainerError(f"{target} cannot be written ({error.strerror or error}).") from error
    return said


def export_at_the_end(ctx: Context, output: Output, folder: Folder) -> bool:
    """Export on rank 0 after a training, compared on validation pictures; a collective call, False
    on all ranks if that failed.
    """
    problem = None
    if ctx.is_main:
        every = -(-len(folder.val) // COMPARED)  # so that all classes are among them
        paths = [os.path.join(folder.root, picture.path) for picture in folder.val[::every]]
        try:
            ctx.print(f"onnx        {output.onnx}: {export(output.model, output.onnx, paths)}")
        except TrainerError as error:
            problem = str(error)
            ctx.print(f"train: error: {problem}")
    return ctx.broadcast_object(problem) is None


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says, and return the exit code: 0, or 2 with one line that says
    why not.
    """
    try:
        args = build_parser().parse_args(argv)
        pictures, _ = list_pictures(args.pictures, classes=())
        paths = [picture.path for picture in pictures] or pictures_of_training(args.model)
        print(f"{args.onnx}: {export(args.model, args.onnx, paths)}")
    except TrainerError as error:
        print(f"train: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    return 0
