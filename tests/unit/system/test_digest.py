"""The digests are those of the standard library, for keys and messages of any length."""

from __future__ import annotations

import hashlib
import hmac
import random

import pytest

from launcher.system.digest import compare_digest, hmac_sha256, sha256


@pytest.mark.parametrize("key_bytes", [0, 1, 32, 63, 64, 65, 200])
def test_they_are_those_of_the_standard_library(key_bytes: int) -> None:
    source = random.Random(key_bytes)
    key = source.randbytes(key_bytes)
    for message_bytes in (0, 1, 55, 56, 64, 1000, 100_000):
        message = source.randbytes(message_bytes)
        assert sha256(message).digest() == hashlib.sha256(message).digest()
        assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


def test_equal_codes_are_equal() -> None:
    assert compare_digest(b"code", bytes(bytearray(b"code")))
    assert not compare_digest(b"code", b"cods")
