"""What the readers of Azure ML's how-to pages type, with nothing but the import lines changed.

Written anew from those pages, block by block and in their order: the articles of 2018, 2020 and
2021, and the notebooks on distributed training, managing runs, logging and environments. The
training script is a stand-in with the same options and the same calls.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.jobs import Workspace
from tests.jobs.conftest import add_wheel

_ARTICLES = Path(__file__).parent / "articles"

_SCRIPT = """
import argparse, os
from azureml.core.run import Run

run = Run.get_submitted_run()

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--data_dir', default='')
    parser.add_argument('--num_epochs', type=int, default=25)
    parser.add_argument('--output_dir', type=str)
    parser.add_argument('--learning_rate', type=float, default=0.001)
    parser.add_argument('--momentum', type=float, default=0.9)
    parser.add_argument('--local_rank', type=int, default=0)
    args = parser.parse_args()
    run.log('lr', float(args.learning_rate))
    run.log('momentum', float(args.momentum))
    for top, folders, files in os.walk(args.data_dir):
        print('data', files, folders)
    for epoch in range(args.num_epochs):
        run.log('best_val_acc', 0.5 + epoch / 100)
        print('Epoch {}/{}'.format(epoch, args.num_epochs - 1))
    os.makedirs(args.output_dir, exist_ok=True)
    with open(os.path.join(args.output_dir, 'model.pt'), 'w') as file:
        file.write('model')

if __name__ == '__main__':
    main()
"""

_CONDA = """\
channels:
- conda-forge
dependencies:
- python=3.6.2
- pip:
  - azureml-defaults
  - torch==1.6.0
  - torchvision==0.7.0
  - future==0.17.1
  - pillow
"""

# What the output of each has, in this order.
_SAID = {
    "2018_estimator": (
        *("Creating a new compute target...\nCreating\nSucceeded\n", "STANDARD_NC6\n"),
        *("workspaceblobstore LocalFolder None None\n", "Uploaded 1 files\n"),
        *("data ['owl.txt'] []\n", "Epoch 1/1\n", "Execution Summary\n"),
        *("2 nodes were asked for", "data [] ['birds']\n", "Execution Summary\n"),
    ),
    "2020_estimator": (
        *("Status: ", "Streaming azureml-logs/70_driver_log.txt\n", "Execution Summary\n"),
        *("Streaming azureml-logs/70_driver_log_0.txt\n", "Execution Summary\n"),
        "['azureml-logs/70_driver_log_0.txt', 'azureml-logs/70_driver_log_1.txt']\n",
        *("Execution Summary\n", "pytorch-birds\tpytorch-birds:1\t1\n[1]\n"),
    ),
    "2021_script_run_config": (
        *("Creating a new compute target...\n", "nodes requested have been provisioned\n"),
        "Streaming azureml-logs/20_image_build_log.txt\n",
        "python=3.6.2 cannot be had;",
        "torch==1.6.0 cannot be had; 2.14.1 is taken instead\n",
        *("Streaming azureml-logs/70_driver_log.txt\n", "Epoch 2/2\n", "Warnings:\n"),
        "no container is started: the run gets a Python of this machine, not the image mcr.",
        "Downloading from outputs/model.pt to ./model/model.pt ...\n",
        *("Streaming azureml-logs/70_driver_log_0.txt\n", "Epoch 1/1\n", "Execution Summary\n"),
        *("Execution Summary\n", "[0.5, 0.51] STANDARD_NC6\n"),
    ),
    "distributed_notebooks": (
        *("Uploaded 1 files\n", "data ['owl.txt'] []\n", "node 0 of 2 red\n"),
        *("Execution Summary\n", "Epoch 0/0\n", "node 1 of 2 red\n"),
    ),
    "manage_runs": (
        *("SDK ", "Running\nCompleted\nTrue\n", "Hello!\n", "azureml-user\n"),
        "The property author of ",
        "{'quality': 'fantastic run', 'worth another look': None}\nTrue\n",
        "Status of the delayed run: Canceled\nStatus of the failed run: Failed\n",
        "3 {'Completed'}\n{'Message': 'Hello from child'} True\nTrue\nTrue 2\n",
    ),
    "logging_api": (
        "True {'Competition Rank': 1}\n",
        "0.01 [0, 1, 1, 2, 3] {'angle': [0, 1, 2], 'cos': [0, 1, 4]} ",
        "{'angle': [0, 1], 'sine': [0.0, 0.84]}\n{'LR': 0.01}\n",
        "['data/one.txt', 'folder/one.txt', 'images/Dots.png']\none 9\n",
    ),
    "environments": (
        *("no tiny\n", "tiny==1.0 of conda is taken from PyPI: tiny==1.0\n", "tiny 1.0\n"),
        "system-managed-env {'mse': 0.5}\n['azureml-logs/20_image_build_log.txt', ",
        "best_model\t1\tHello from Azure Machine Learning\n",
        "{'docker': '1', 'system-managed-env': '1'}\nmcr.microsoft.com/",
        "1\nCreating\nSucceeded\n",
        "cpu-cluster no container is started",
        "2 2\n['local']\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _SAID)
def test_an_article_runs_after_a_change_of_its_imports(
    name: str, workspace: Workspace, wheels: Path, tmp_path: Path
) -> None:
    pytest.importorskip("yaml")
    for package, version in (("torch", "2.14.1"), ("torchvision", "0.7.0"), ("future", "0.17.1")):
        add_wheel(wheels, package, version)
    add_wheel(wheels, "pillow", "12.0")
    (tmp_path / "config.json").write_text('{"workspace_name": "test", "environments": "nearest"}')
    (tmp_path / "pytorch_train.py").write_text(_SCRIPT)
    (tmp_path / "conda_dependencies.yml").write_text(_CONDA)
    shutil.copy(_ARTICLES / f"{name}.txt", tmp_path / "article.py")
    migrate = [sys.executable, "-m", "launcher.jobs", "migrate", "--write", "article.py"]
    done = subprocess.run(migrate, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "article.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    at = 0
    for said in _SAID[name]:
        at = ran.stdout.find(said, at)
        assert at >= 0, f"{said!r} does not follow in\n{ran.stdout}"
        at += len(said)
