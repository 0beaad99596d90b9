"""Which values are secrets."""

from __future__ import annotations

import pytest

from launcher.system.secrets import is_certainly_secret, is_secret, mask_arguments, mask_variables


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "HF_TOKEN", "LAUNCHER_SECRET", "AWS_SECRET_ACCESS_KEY", "MYSQL_PWD"),
        *("DB_PASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "apikey", "API_KEYS", "ACCESSTOKEN"),
    ],
)
def test_names_that_say_so_are_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "KEYBOARD", "MONKEY", "PATH", "AUTHOR"]
)
def test_other_names_are_none(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("WANDB_API_KEY", "TOKEN", "db_password", "HF_TOKEN", "KEY_ID", "PWD", "MYSQL_PWD"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "BASIC_AUTH", "apikey", "ACCESSTOKEN"),
    ],
)
def test_a_run_keeps_no_value_of_such_a_name(name: str) -> None:
    assert is_certainly_secret(name)


@pytest.mark.parametrize(
    "name", ["MAX_TOKENS", "NUM_KEYS", "OLDPWD", "MONKEY", "TOKENIZERS_PARALLELISM", "AUTHOR"]
)
def test_a_run_keeps_what_may_be_a_number(name: str) -> None:
    assert not is_certainly_secret(name)


def test_values_are_masked_and_empty_ones_say_so() -> None:
    variables = {"A_TOKEN": "t", "B_TOKEN": "", "URL": "https://u:p@host/a:b@c"}
    masked = {"A_TOKEN": "***", "B_TOKEN": "", "URL": "https://u:***@host/a:b@c"}
    assert mask_variables(variables) == masked


def test_an_option_without_a_value_masks_nothing_else() -> None:
    arguments = ["--token", "--lr", "0.1", "key=5", "--key=5", "--password", "p", "--x-key="]
    assert mask_arguments(arguments) == [
        *("--token", "--lr", "0.1", "key=***", "--key=***", "--password", "***", "--x-key=")
    ]
