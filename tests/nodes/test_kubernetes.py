"""The example for Kubernetes: its schema, and its command in pods that are imitated.

There is no Kubernetes here. What a kubelet gives a container of such a Job, by the documentation,
hosts of the lab have: the name, the line in /etc/hosts, the index and the variables.
"""

from __future__ import annotations

import shlex
import sys
from typing import Any

import pytest

from tests.conftest import ROOT, Running, Script
from tests.lab.lab import Lab
from tests.test_docs import blocks

yaml = pytest.importorskip("yaml")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
EXAMPLE = ROOT / "examples" / "kubernetes.yaml"

# One that is years old, and the newest whose schema is there.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

DOMAIN = "default.svc.cluster.local"

SAY_PLACE = """
import os
names = ("RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")
print(os.uname().nodename, *(os.environ[name] for name in names), "LAUNCHER_SECRET" in os.environ)
"""


def _read_example() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Service and the Job."""
    service, job = yaml.safe_load_all(EXAMPLE.read_text())
    return service, job


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_is_what_the_schema_of_kubernetes_asks_for(version: str) -> None:
    documents = _read_example()
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_find_a_typing_error() -> None:
    _, job = _read_example()
    job["spec"]["completionmode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_the_parts_of_the_example_go_together() -> None:
    service, job = _read_example()
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = dict(word.split("=") for word in container["command"] if "=" in word)
    assert spec["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(options["--nnodes"])
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == int(options["--nproc-per-node"])
    assert int(options["--shutdown-timeout"]) < spec["terminationGracePeriodSeconds"]


def test_the_commands_of_the_page_are_for_what_the_example_has() -> None:
    service, job = _read_example()
    (text,) = [text for _, rest, text in blocks(PAGE) if rest == "on=kubernetes"]
    secret, apply, logs = map(shlex.split, text.splitlines())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    key = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert secret[:5] == ["kubectl", "create", "secret", "generic", key["name"]]
    assert secret[5].startswith(f"--from-literal={key['key']}=")
    assert apply == ["kubectl", "apply", "-f", EXAMPLE.name]
    # The label that Kubernetes gives the pods of a Job, by which the Service finds them, too.
    ((label, name),) = service["spec"]["selector"].items()
    assert logs[-2:] == ["--selector", f"{label}={name}"]
    # What the comment on top of the example tells to type is the same.
    assert [f"#   {line}" in EXAMPLE.read_text() for line in text.splitlines()[:2]] == [True] * 2


def test_the_pods_of_the_example_find_each_other(lab: Lab, script: Script) -> None:
    jobs = _start_pods(lab, script(SAY_PLACE, "train.py"))
    lines = []
    for running in jobs:
        done = running.finish()
        assert (done.code, done.err) == (0, "")
        lines += done.lines
    assert lines == [
        f"[train-{rank // 2}:{rank}] train-{rank // 2} {rank} 4 {rank // 2} 10.77.0.1 False"
        for rank in range(4)
    ]


def test_pods_without_the_service_are_told_what_is_missing(lab: Lab, script: Script) -> None:
    jobs = _start_pods(lab, script(SAY_PLACE, "train.py"), subdomain="")
    for running in jobs:
        done = running.finish()
        assert done.code == 2
        assert "Kubernetes has started a launcher on each node" in done.err
        assert "--nnodes 2 --nproc-per-node 2 --rdzv-endpoint HOST:29400 train.py" in done.err


def _start_pods(lab: Lab, name: str, subdomain: str | None = None) -> list[Running]:
    """Run the example's command on two hosts, with two workers each, as their pods would do."""
    _, job = _read_example()
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    python, *words = container["command"]
    command = [sys.executable, *("--nproc-per-node=2" if "nproc" in w else w for w in words)]
    assert (python, words[-1]) == ("python", name)
    names = [variable["name"] for variable in container["env"]]
    assert names == ["LAUNCHER_SECRET"]
    subdomain = template["subdomain"] if subdomain is None else subdomain
    pods = [f"{job['metadata']['name']}-{index}" for index in range(job["spec"]["completions"])]
    full = [".".join(filter(None, (pod, subdomain, DOMAIN if subdomain else ""))) for pod in pods]
    running = []
    for index, pod in enumerate(pods):
        host = lab.hosts[index]
        # Its own line as a kubelet writes it, and the answers of the cluster's name server.
        known = {f"{full[index]} {pod}": host.address}
        known |= {name: lab.hosts[number].address for number, name in enumerate(full)}
        host.set_names({"localhost": "127.0.0.1", **known})
        enter = ["unshare", "--uts", "sh", "-c", f'hostname {pod}; exec "$@"', "sh"]
        env = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": pod, "LAUNCHER_SECRET": "word"}
        running.append(host.start(*enter, *command, env=env))
    return running
