"""What plan.json says, and what it must not say."""

from __future__ import annotations

import json
from pathlib import Path

from launcher.record.plan_file import find_version, make_plan_file
from tests.unit.attempt import fakes


def test_the_plan_has_every_rank_and_no_secret() -> None:
    environ = {"HF_TOKEN": "hf_123", "HOME": "/home/ada", "DB": "postgres://ada:pass@host/db"}
    argv = ["--nproc-per-node=2", "train.py", "--wandb-api-key", "w-123", "--secret=s-123"]
    about = {"launcher": "1.0", "run_id": "id"}
    made = make_plan_file(fakes.plan(2), argv, environ, about)
    text = json.dumps(made)
    assert [rank["rank"] for rank in made["layout"]["ranks"]] == [0, 1]
    assert made["layout"]["hosts"] == []
    assert made["command"][2:] == [
        *("launcher", "--nproc-per-node=2", "train.py"),
        *("--wandb-api-key", "***", "--secret=***"),
    ]
    assert made["environment"]["DB"] == "postgres://ada:***@host/db"
    assert made["environment"]["HOME"] == "/home/ada"
    assert made["versions"]["launcher"] == "1.0"
    assert not any(secret in text for secret in ("hf_123", "w-123", "s-123", "pass@"))


def test_the_plan_says_where_the_ranks_of_other_nodes_are() -> None:
    plan = fakes.plan(1)
    plan = plan._replace(assignment=plan.assignment._replace(hosts=(("a", 1), ("b", 8))))
    made = make_plan_file(plan, [], {}, {"launcher": "1.0"})
    assert made["layout"]["hosts"] == [{"host": "a", "ranks": 1}, {"host": "b", "ranks": 8}]


def test_the_address_of_horovods_store_is_a_secret() -> None:
    plan = fakes.plan(1)
    variables = {**plan.workers[0].common_env, "HOROVOD_GLOO_RENDEZVOUS_ADDR": "h:1/secret"}
    plan = plan._replace(workers=(plan.workers[0]._replace(common_env=variables),))
    made = make_plan_file(plan, [], {}, {"launcher": "1.0"})
    assert made["layout"]["variables"]["HOROVOD_GLOO_RENDEZVOUS_ADDR"] == "***"


def test_a_version_is_read_and_nothing_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "second" / "torch"
    package.mkdir(parents=True)
    (package / "version.py").write_text("x = 1\n__version__ = '2.14.1+cpu'\nraise SystemExit\n")
    paths = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert find_version("torch", paths) == "2.14.1+cpu"
    assert find_version("torch", paths[:1]) is None
    (package / "version.py").write_text("from .generated import __version__\n")
    assert find_version("torch", paths) is None
