"""Prediction, to be read from top to bottom once: find the pictures, share them among the ranks,
print what the model says in the order of the pictures.

main() is at the end, as in trainer.py. All functions are called by all ranks, unless they say
otherwise; rank 0 prints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import launcher
from train.classifier import Classifier, load_classifier
from train.data import Loader
from train.errors import EXIT_USAGE, TrainerError, together
from train.folder import Folder, Picture, list_files, shown
from train.model import choose_precision
from train.pictures import PictureCache
from train.predict import build_parser

EXIT_NOTHING = 1  # no picture could be predicted
EXIT_NO_READER = 141  # what shells say of a program whose reader has gone (128 + SIGPIPE)
UNLABELLED = -1
PROBABILITY_DIGITS = 4  # in JSON; digits further down depend on the number of ranks
# With more classes a matrix is too wide for any screen; the most frequent mistakes are shown then.
MOST_IN_MATRIX = 20
SHOWN_MISTAKES = 20


class Answer(NamedTuple):
    """What the model says of one picture: its classes and their probabilities, likeliest first."""

    picture: Picture
    top: list[tuple[int, float]]


# -- the pictures ----------------------------------------------------------------------------------


def list_pictures(
    paths: Sequence[str], classes: Sequence[str]
) -> tuple[tuple[Picture, ...], list[str]]:
    """All pictures of the command line with their labels, and notes about folders.

    On rank 0. Raises TrainerError for a path that does not exist.
    """
    pictures: list[Picture] = []
    notes = []
    for path in paths:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise TrainerError(f"there is no picture or folder {shown(path)}.")
            pictures.append(Picture(len(pictures), path, UNLABELLED))
            continue
        label_of, note = _labels(path, classes)
        notes += [note] if note else []
        for file in list_files(path, ""):
            parts = file.split(os.sep)
            if not any(part.startswith(".") for part in parts):
                label = label_of.get(parts[0], UNLABELLED) if len(parts) > 1 else UNLABELLED
                pictures.append(Picture(len(pictures), os.path.join(path, file), label))
    return tuple(pictures), notes


def _labels(folder: str, classes: Sequence[str]) -> tuple[dict[str, int], str | None]:
    """The label of each class folder, none if the folder is not labelled; and what to say of it."""
    inner = _folders(folder)
    if not inner:
        return {}, None
    others = [name for name in inner if name not in classes]
    if not others:
        return {name: classes.index(name) for name in inner}, None
    note = f"note: {shown(folder)}: {shown(others[0])} is not a class of the model, so no accuracy"
    val = next((n for n in ("val", *others) if set(_folders(f"{folder}/{n}")) & set(classes)), None)
    hint = f"; did you mean {shown(os.path.join(folder, val))}?" if val else ""
    return {}, note + hint


def _folders(folder: str) -> list[str]:
    """Sorted names of the folders in it; none if it cannot be read."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


# -- the ranks' shares -----------------------------------------------------------------------------


def answer_all(
    ctx: launcher.Context, classifier: Classifier, loader: Loader, top: int
) -> Iterator[list[Answer]]:
    """On rank 0 the answers of all ranks, batch by batch, in the order of the pictures."""
    top = min(top, len(classifier.classes))
    for batch in loader.validation():
        mine: list[Answer] = []
        if batch.pictures:
            found = classifier.probabilities(classifier.normalise(batch.images)).topk(top)
            mine = [
                Answer(picture, list(zip(labels, probabilities, strict=True)))
                for picture, labels, probabilities in zip(
                    batch.pictures, found.indices.tolist(), found.values.tolist(), strict=True
                )
            ]
        ctx.heartbeat()
        everyone = ctx.gather_object(mine) or []
        yield sorted(answer for part in everyone for answer in part)


# -- the words -------------------------------------------------------------------------------------


def as_text(answer: Answer, classes: Sequence[str]) -> str:
    """One picture on one line: `val/crow/1.jpg: robin 61.3% (is crow)`."""
    path, label = shown(answer.picture.path), answer.picture.label
    guesses = ", ".join(f"{shown(classes[c])} {p:.1%}" for c, p in answer.top)
    wrong = label not in (UNLABELLED, answer.top[0][0])
    return f"{path}: {guesses}" + (f" (is {shown(classes[label])})" if wrong else "")


def as_json(answer: Answer, classes: Sequence[str]) -> str:
    """One picture as one JSON object."""
    top = [
        {"label": shown(classes[c]), "probability": round(p, PROBABILITY_DIGITS)}
        for c, p in answer.top
    ]
    label = answer.picture.label
    truth = {} if label == UNLABELLED else {"truth": shown(classes[label])}
    return json.dumps({"path": shown(answer.picture.path), **top[0], **truth, "top": top})


class Score:
    """Counts of labelled pictures: how often each class was taken for which."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._names = [shown(name) for name in classes]
        self._counts = [[0] * len(classes) for _ in classes]

    def add(self, answer: Answer) -> None:
        """Count one picture, if it has a label."""
        if answer.picture.label != UNLABELLED:
            self._counts[answer.picture.label][answer.top[0][0]] += 1

    @property
    def pictures(self) -> int:
        """Labelled pictures so far."""
        return sum(map(sum, self._counts))

    @property
    def right(self) -> int:
        """Of these, the ones whose class was found."""
        return sum(row[label] for label, row in enumerate(self._counts))

    def as_json(self) -> str:
        """The figures as one JSON object; a row of the matrix is a true class."""
        figures = {
            "accuracy": round(self.right / self.pictures, PROBABILITY_DIGITS),
            "right": self.right,
            "pictures": self.pictures,
            "classes": self._names,
            "confusion": self._counts,
        }
        return json.dumps(figures)

    def as_text(self) -> str:
        """Accuracy, and the matrix; for many classes, the most frequent mistakes."""
        lines = [
            f"accuracy {self.right / self.pictures:.1%}: {self.right} of {self.pictures} pictures"
        ]
        many = len(self._names) > MOST_IN_MATRIX
        return "\n".join(lines + (self._mistakes() if many else self._matrix()))

    def _matrix(self) -> list[str]:
        rows = [["true \\ predicted", *self._names]]
        rows += [
            [name, *map(str, row)] for name, row in zip(self._names, self._counts, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            row[0].ljust(widths[0])
            + "".join(
                "  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
            )
            for row in rows
        ]

    def _mistakes(self) -> list[str]:
        found = [
            (-count, name, self._names[predicted])
            for label, (name, row) in enumerate(zip(self._names, self._counts, strict=True))
            for predicted, count in enumerate(row)
            if count and predicted != label
        ]
        return [
            f"{-n} x {true} taken for {other}" for n, true, other in sorted(found)[:SHOWN_MISTAKES]
        ]


# -- the story -------------------------------------------------------------------------------------


def predict(ctx: launcher.Context, argv: Sequence[str] | None) -> int:
    """Predict as the command line says, and return the exit code."""
    args = together(ctx, lambda: build_parser().parse_args(argv))
    classifier = together(ctx, lambda: open_model(ctx, args))
    classes = classifier.classes
    found = together(ctx, lambda: list_pictures(args.paths, classes) if ctx.is_main else None)
    pictures, notes = ctx.broadcast_object(found)
    if ctx.is_main:
        sys.stderr.writelines(f"{note}\n" for note in notes)

    skipped: dict[int, str] = {}
    score = Score(classes)
    num_answers = 0
    with PictureCache(0) as nothing:  # each picture is looked at once
        loader = Loader(
            ctx,
            Folder("", classes, train=(), val=pictures, skipped=()),
            nothing,
            classifier.image_size,
            args.workers,
            resize=classifier.resize,
            report=lambda picture, error: skipped.update({picture.key: str(error)}),
        )
        for answers in answer_all(ctx, classifier, loader, args.top):
            for answer in answers:
                score.add(answer)
                ctx.print((as_json if args.json else as_text)(answer, classes))
            num_answers += len(answers)

    if score.pictures:
        ctx.print(score.as_json() if args.json else f"\n{score.as_text()}")
    tell_skipped(ctx, pictures, skipped)
    return ctx.broadcast_object(0 if num_answers else EXIT_NOTHING)


def open_model(ctx: launcher.Context, args: argparse.Namespace) -> Classifier:
    """The model on this rank's device; raises TrainerError."""
    if args.model.endswith(".onnx") and args.precision == "bf16":
        raise TrainerError("an ONNX file computes in float32; leave out `--precision bf16`.")
    return load_classifier(args.model, ctx.device, choose_precision(args.precision, ctx.device))


def tell_skipped(
    ctx: launcher.Context, pictures: Sequence[Picture], skipped: dict[int, str]
) -> None:
    """Name the pictures of all ranks that could not be read, in their order; a collective call."""
    parts = ctx.gather_object(skipped) or []
    reasons = {key: reason for part in parts for key, reason in part.items()}
    if ctx.is_main:
        lines = [f"skipped: {shown(pictures[k].path)}: {reasons[k]}\n" for k in sorted(reasons)]
        if len(reasons) == len(pictures):
            lines.append(
                "train: error: nothing could be predicted:"
                f" {'no file is a' if pictures else 'there is no'} picture\n"
            )
        sys.stderr.write("".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Join the run, predict, and return the exit code: 0, 1 (nothing to predict), 2 (wrong command
    or model), 130 (Ctrl-C), 141 (nobody reads the output).
    """
    try:
        return predict(launcher.init(), argv)
    except (launcher.LauncherError, TrainerError) as error:
        print(f"train: error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, launcher.LauncherError) else EXIT_USAGE
    except BrokenPipeError:  # `... | head`: what Python still holds has nobody who reads it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER
    except KeyboardInterrupt:
        return 130
