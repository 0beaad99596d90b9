"""SHA-256, and the HMAC of RFC 2104 with it, from what Python brings along itself.

`hmac` and `hashlib` load OpenSSL, a fifteenth of what the start of a node's launcher takes; what is
digested here is short. The standard library's `random` goes the same way.
"""

from __future__ import annotations

from _operator import _compare_digest as compare_digest

__all__ = ["compare_digest", "hmac_sha256", "sha256"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    # Of Python 3.12 and later, of those before, and of one that was built without.
    for name in ("_sha2", "_sha256", "hashlib"):
        try:
            sha256 = __import__(name).sha256
            break
        except ImportError:
            pass

_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Return the code of a message, 32 bytes."""
    if len(key) > _BLOCK_BYTES:
        key = sha256(key).digest()
    key = key.ljust(_BLOCK_BYTES, b"\0")
    inner = sha256(key.translate(_INNER) + message).digest()
    return sha256(key.translate(_OUTER) + inner).digest()
