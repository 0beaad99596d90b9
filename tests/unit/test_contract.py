"""References to contract names in arguments, and names that must not be inherited.

What workers get: launch/test_environment.py.
"""

from __future__ import annotations

import pytest

from launcher import contract

VARIABLES = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("$RANK", "3"),
        ("${RANK}", "3"),
        ("x$RANK-y", "x3-y"),
        ("$RANK$LOCAL_RANK", "31"),
        ("${RANK}${RANK}", "33"),
        ("$RANK_", "$RANK_"),
        ("$RANKé", "3é"),
        ("$HOME", "$HOME"),
        ("${HOME}", "${HOME}"),
        ("${RANK", "${RANK"),
        ("${}", "${}"),
        ("$", "$"),
        ("$$RANK", "$3"),
        ("$MASTER_PORT", "$MASTER_PORT"),
        ("plain", "plain"),
        ("", ""),
        ("\udcff$RANK", "\udcff3"),
    ],
)
def test_contract_names_are_expanded_and_other_dollars_stay(argument: str, expanded: str) -> None:
    assert contract.expand(argument, VARIABLES) == expanded
