"""What the readers of Azure ML's how-to pages type, with nothing but the import lines changed.

Written anew from those pages: 2018 and 2020 with the estimator, 2021 with ScriptRunConfig. The
training script is a stand-in with the same options and the same calls.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.jobs import Workspace

_SCRIPT = """
import argparse, os
from azureml.core.run import Run

run = Run.get_context()

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--num_epochs', type=int, default=25)
    parser.add_argument('--output_dir', type=str)
    parser.add_argument('--learning_rate', type=float, default=0.001)
    parser.add_argument('--momentum', type=float, default=0.9)
    parser.add_argument('--local_rank', type=int, default=0)
    args = parser.parse_args()
    run.log('lr', float(args.learning_rate))
    run.log('momentum', float(args.momentum))
    for epoch in range(args.num_epochs):
        run.log('best_val_acc', 0.5 + epoch / 100)
        print('Epoch {}/{}'.format(epoch, args.num_epochs - 1))
    os.makedirs(args.output_dir, exist_ok=True)
    with open(os.path.join(args.output_dir, 'model.pt'), 'w') as file:
        file.write('model')

if __name__ == '__main__':
    main()
"""

_2021 = """
import os, shutil
from azureml.core.workspace import Workspace
from azureml.core import Experiment
from azureml.core import Environment
from azureml.core.compute import ComputeTarget, AmlCompute
from azureml.core.compute_target import ComputeTargetException
from azureml.core import ScriptRunConfig
from azureml.core.runconfig import PyTorchConfiguration, MpiConfiguration

ws = Workspace.from_config()
project_folder = './pytorch-birds'
os.makedirs(project_folder, exist_ok=True)
shutil.copy('pytorch_train.py', project_folder)

cluster_name = "gpu-cluster"
try:
    compute_target = ComputeTarget(workspace=ws, name=cluster_name)
    print('Found existing compute target')
except ComputeTargetException:
    print('Creating a new compute target...')
    compute_config = AmlCompute.provisioning_configuration(vm_size='STANDARD_NC6', max_nodes=4)
    compute_target = ComputeTarget.create(ws, cluster_name, compute_config)
    compute_target.wait_for_completion(show_output=True)

curated_env_name = 'AzureML-PyTorch-1.6-GPU'
pytorch_env = Environment.get(workspace=ws, name=curated_env_name)
pytorch_env = Environment.get(workspace=ws, name=curated_env_name)
pytorch_env.save_to_directory(path=curated_env_name)
pytorch_env = Environment.from_conda_specification(
    name='pytorch-1.6-gpu', file_path='./conda_dependencies.yml')
pytorch_env.docker.enabled = True
pytorch_env.docker.base_image = 'mcr.microsoft.com/azureml/openmpi3.1.2-cuda10.1-cudnn7-ubuntu18.04'
pytorch_env.python.user_managed_dependencies = True

src = ScriptRunConfig(source_directory=project_folder,
                      script='pytorch_train.py',
                      arguments=['--num_epochs', 3, '--output_dir', './outputs'],
                      compute_target=compute_target,
                      environment=pytorch_env)
run = Experiment(ws, name='pytorch-birds').submit(src)
run.wait_for_completion(show_output=True)
model = run.register_model(model_name='pytorch-birds', model_path='outputs/model.pt')

os.makedirs('./model', exist_ok=True)
for f in run.get_file_names():
    if f.startswith('outputs/model'):
        output_file_path = os.path.join('./model', f.split('/')[-1])
        run.download_file(name=f, output_file_path=output_file_path),

for distr_config in (MpiConfiguration(node_count=2), PyTorchConfiguration(
        communication_backend='Nccl', process_count=2, node_count=2)):
    src = ScriptRunConfig(source_directory=project_folder,
                          script='pytorch_train.py',
                          arguments=['--num_epochs', 2, '--output_dir', './outputs',
                                     '--local_rank', '$LOCAL_RANK'],
                          compute_target=compute_target,
                          environment=pytorch_env,
                          distributed_job_config=distr_config)
    run = Experiment(ws, name='pytorch-birds').submit(src)
    run.wait_for_completion(show_output=True)
    assert run.get_metrics()['best_val_acc'] == [0.5, 0.51], run.get_metrics()
assert compute_target.get_status().serialize()['vmSize'] == 'STANDARD_NC6'
"""

_2020 = """
from azureml.core import Workspace, Experiment
from azureml.core.model import Model
from azureml.train.dnn import PyTorch, Mpi
from azureml.widgets import RunDetails

ws = Workspace.from_config()
script_params = {'--num_epochs': 2, '--output_dir': './outputs'}
estimator = PyTorch(source_directory='.',
                    script_params=script_params,
                    compute_target='gpu-cluster',
                    entry_script='pytorch_train.py',
                    use_gpu=True,
                    framework_version='1.13')
run = Experiment(ws, name='pytorch-birds').submit(estimator)
RunDetails(run).show()
run.wait_for_completion(show_output=True)
estimator = PyTorch(source_directory='.',
                    compute_target='gpu-cluster',
                    script_params=script_params,
                    entry_script='pytorch_train.py',
                    node_count=2,
                    process_count_per_node=1,
                    distributed_training=Mpi(),
                    use_gpu=True)
run = Experiment(ws, name='pytorch-birds').submit(estimator)
run.wait_for_completion(show_output=True)
model = run.register_model(model_name='pytorch-birds', model_path='outputs/')
print(model.name, model.id, model.version, sep='\\t')
print([m.version for m in Model.list(ws)])
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


@pytest.mark.slow
def test_the_articles_run_after_a_change_of_their_imports(
    workspace: Workspace, tmp_path: Path
) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "pytorch_train.py").write_text(_SCRIPT)
    (tmp_path / "conda_dependencies.yml").write_text(_CONDA)
    for name, text in (("2021.py", _2021), ("2020.py", _2020)):
        path = tmp_path / name
        path.write_text(text)
        migrate = [sys.executable, "-m", "launcher.jobs", "migrate", "--write", name]
        done = subprocess.run(migrate, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        ran = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", name],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "model" / "model.pt").read_text() == "model"
    assert "pytorch-birds\tpytorch-birds:2\t2\n[2, 1]\n" in ran.stdout
    assert ran.stdout.count("Execution Summary") == 2
