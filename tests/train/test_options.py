"""The command line: few options, frozen here; help at once; a mistake is one line, said once."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from train.errors import TrainerError
from train.options import build_parser, parse_args

FLAGS = [
    "--accumulate",
    "--batch-norm",
    "--batch-size",
    "--cache-mb",
    "--class-weights",
    "--compile",
    "--data",
    "--ema",
    "--epochs",
    "--evaluate-only",
    "--export-onnx",
    "--freeze-backbone",
    "--help",
    "--image-size",
    "--label-smoothing",
    "--lr",
    "--lr-gamma",
    "--lr-schedule",
    "--lr-step",
    "--mixup",
    "--model",
    "--momentum",
    "--output-dir",
    "--patience",
    "--precision",
    "--resume",
    "--seed",
    "--tensorboard",
    "--warmup-epochs",
    "--weights",
    "--workers",
]


def test_there_are_no_other_flags() -> None:
    flags = {
        flag
        for action in build_parser()._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    assert sorted(flags) == FLAGS


def test_the_defaults_are_the_tutorial_s_recipe() -> None:
    args = parse_args(["--data", "x"])
    assert (args.lr, args.momentum, args.lr_step, args.lr_gamma, args.batch_size) == (
        0.001,
        0.9,
        7,
        0.1,
        4,
    )
    assert (args.model, args.weights, args.image_size, args.epochs) == (
        "resnet18",
        "imagenet",
        224,
        25,
    )


def test_the_articles_spelling_works() -> None:
    line = "--data x --num_epochs 30 --output_dir ./outputs --learning_rate 0.01 --momentum=0.8"
    args = parse_args(line.split())
    assert (args.epochs, args.output_dir, args.lr, args.momentum) == (30, "./outputs", 0.01, 0.8)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--epochs 3 --num_epochs 30", "epochs", 30),
        ("--num_epochs=30 --epochs=3", "epochs", 3),
        ("--learning 0.5", "lr", 0.5),
        ("--lr 0.1 --learning_rate 0.2", "lr", 0.2),
        ("--output there", "output_dir", "there"),
        ("--out=there", "output_dir", "there"),
        ("--num_e 7", "epochs", 7),
    ],
)
def test_of_two_spellings_the_last_wins_and_either_can_be_abbreviated(
    line: str, name: str, value: object
) -> None:
    assert getattr(parse_args(["--data", "x", *line.split()]), name) == value


def test_an_abbreviation_of_two_options_is_still_ambiguous() -> None:
    with pytest.raises(TrainerError, match="ambiguous option: --lr-"):
        parse_args(["--data", "x", "--lr-", "1"])


def test_help_and_messages_show_one_spelling_of_each_option() -> None:
    text = build_parser().format_help()
    assert "  --epochs EPOCHS " in text and "  --output-dir DIR " in text and "  --lr LR " in text
    assert "--num_epochs" not in text.partition("PyTorch's transfer")[0]
    assert "--num_epochs, --learning_rate and --output_dir are understood" in text
    with pytest.raises(TrainerError, match="argument --lr: invalid number value: 'fast'"):
        parse_args(["--data", "x", "--learning_rate", "fast"])


@pytest.mark.parametrize(
    "wrong",
    [
        "--lr 0",
        "--lr nan",
        "--epochs 0",
        "--seed 99999999999999999999",
        "--image-size 32",
        "--workers many",
        "--model vgg",
    ],
)
def test_a_wrong_value_names_its_option(wrong: str) -> None:
    with pytest.raises(TrainerError, match=wrong.split()[0]):
        parse_args(["--data", "x", *wrong.split()])


def test_help_does_not_wait_for_torch(run_command: Callable[..., object]) -> None:
    code = (
        "import runpy, sys\nsys.argv = ['train', '--help']\ntry: runpy.run_module('train',"
        " run_name='__main__')\nexcept SystemExit as end: assert not end.code\nassert 'torch' not"
        " in sys.modules"
    )
    done = run_command([sys.executable, "-c", code])
    assert done.code == 0, done.err
    assert "--freeze-backbone" in done.out


def test_missing_packages_are_named_with_the_command_that_installs_them(
    run_command: Callable[..., object],
) -> None:
    code = (
        "import runpy, sys\nfrom importlib import util\nsys.argv = ['train', '--data', 'x']\nfind ="
        " util.find_spec\nutil.find_spec = lambda name: None if name.startswith('torch') else"
        " find(name)\nrunpy.run_module('train', run_name='__main__')"
    )
    done = run_command([sys.executable, "-c", code])
    assert done.code == 2
    assert (
        done.err
        == "train: error: the trainer needs torch, torchvision, which this Python does not have. "
        f"Type: {sys.executable} -m pip install torch torchvision\n"
    )


def test_the_trainer_uses_public_names_of_the_launcher_only() -> None:
    import launcher.jobs

    public = {"launcher": set(launcher.__all__), "launcher.jobs": set(launcher.jobs.__all__)}
    package = Path(__file__).resolve().parents[2] / "train"
    for file in package.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("launcher"):
                names = {alias.name for alias in node.names}
                assert names <= public.get(str(node.module), set()), file.name
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("launcher.") for a in node.names), file.name


FAULTS = """
import argparse, ctypes, resource
from train.command import begin
begin(argparse.ArgumentParser(), ())
libc, size = ctypes.CDLL(None), ctypes.c_size_t(64 << 20)
libc.malloc.restype = ctypes.c_void_p
def use_once():
    block = ctypes.c_void_p(libc.malloc(size))
    libc.memset(block, 1, size)
    libc.free(block)
use_once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use_once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(
    ("variables", "is_kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)]
)
def test_freed_memory_is_used_again_unless_malloc_is_set_by_a_variable(
    run_command: Callable[..., object], variables: dict[str, str], is_kept: bool
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUN"))}
    done = run_command([sys.executable, "-c", FAULTS], env={**env, **variables})
    assert done.code == 0, done.err
    assert (int(done.out) < 100) is is_kept, done.out
