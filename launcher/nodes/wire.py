"""How nodes talk: frames of limited length, JSON, and a proof that both know the run's secret.

A frame is 4 bytes with the body's length and the body. Whoever connects says which run it belongs
to, in a form that tells nobody the run's id; then each side proves to the other that it knows the
secret, without sending it. From there on every body begins with a code that only the two could
have made, over the frame's number, too: nothing can be forged, changed, repeated or left out.

Pure: bytes in, values and bytes out. Sockets are in link.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator

from launcher.system.digest import compare_digest, hmac_sha256, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Compared when two nodes meet: both must have the same.
PROTOCOL_VERSION = 1

# A stranger is not listened to for long; a node may tell how many ranks have failed.
_MOST_STRANGE_BYTES = 1024
_MOST_BYTES = 16 << 20

_LENGTH_BYTES = 4
_CODE_BYTES = 16


class WireError(Exception):
    """What came is not from a node of this run: the connection is of no use."""


class Refusal(WireError):
    """The node that was asked has refused, or cannot be believed; `kind` says why.

    run: it belongs to another run. version: its protocol is another one. secret: its secret is.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} {detail}".rstrip())
        self.kind = kind
        self.detail = detail


class Moved(WireError):
    """The run is served at another address."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host} {port}")
        self.host, self.port = host, port


class Credentials:
    """What the nodes of one run have in common: its id, and the secret if there is one."""

    def __init__(self, run_id: str, secret: bytes) -> None:
        name = run_id.encode("utf-8", "surrogateescape")
        self.tag = sha256(b"launcher run " + name).hexdigest()[:32]
        self._key = sha256(b"launcher key " + len(name).to_bytes(4, "big") + name + secret)

    def make_code(self, purpose: str, nonces: bytes) -> bytes:
        """Return what only those can make who know the secret."""
        return hmac_sha256(self._key.digest(), purpose.encode() + b"\0" + nonces)


class Channel:
    """One end of a conversation, as bytes. `take` has what is to be sent."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._received = bytearray()
        self._to_send = bytearray()
        self._sending_key = self._receiving_key = b""
        self._num_sent = self._num_received = 0
        # Whether the other side has proved that it belongs to the run.
        self.is_open = False

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take bytes that have come; yield the messages that are complete.

        Raises WireError where they cannot come from a node of this run.
        """
        self._received += data
        while (body := self._take_body()) is not None:
            if self.is_open:
                yield self._open_body(body)
            else:
                self._shake_hands(_read_object(body))

    def send(self, message: object) -> None:
        """Put a message behind those that are to be sent; the channel is open."""
        body = json.dumps(message, separators=(",", ":")).encode()
        code = _make_code(self._sending_key, self._num_sent, body)
        self._num_sent += 1
        self._put(code + body)

    def take(self) -> bytes:
        """Return what is to be sent, once."""
        data, self._to_send = bytes(self._to_send), bytearray()
        return data

    def _shake_hands(self, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _take_body(self) -> bytes | None:
        if len(self._received) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
        if length > (_MOST_BYTES if self.is_open else _MOST_STRANGE_BYTES):
            raise WireError("a frame that is too long")
        end = _LENGTH_BYTES + length
        if len(self._received) < end:
            return None
        body = bytes(self._received[_LENGTH_BYTES:end])
        del self._received[:end]
        return body

    def _open_body(self, body: bytes) -> Any:
        code, body = body[:_CODE_BYTES], body[_CODE_BYTES:]
        expected = _make_code(self._receiving_key, self._num_received, body)
        if not compare_digest(code, expected):
            raise WireError("a frame that nobody of this run has made")
        self._num_received += 1
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise WireError("a frame that is no message") from None

    def _put(self, body: bytes) -> None:
        self._to_send += len(body).to_bytes(_LENGTH_BYTES, "big") + body

    def _put_object(self, **fields: object) -> None:
        self._put(json.dumps(fields).encode())

    def _prove(self, purpose: str, nonces: bytes) -> str:
        return self._credentials.make_code(purpose, nonces).hex()

    def _check(self, proof: object, purpose: str, nonces: bytes) -> bool:
        return isinstance(proof, str) and compare_digest(
            proof.encode(), self._prove(purpose, nonces).encode()
        )

    def _begin(self, nonces: bytes, *, is_server: bool) -> None:
        keys = [self._credentials.make_code(side, nonces) for side in ("to server", "to client")]
        self._receiving_key, self._sending_key = keys if is_server else keys[::-1]
        self.is_open = True


class ClientChannel(Channel):
    """The side that has connected; what it is to say first is there to be taken at once."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials)
        self._nonce = os.urandom(16)
        self._put_object(launcher=PROTOCOL_VERSION, run=credentials.tag, nonce=self._nonce.hex())

    def _shake_hands(self, message: dict[str, Any]) -> None:
        if "refused" in message:
            raise Refusal(str(message["refused"]), str(message.get("detail", "")))
        if "moved" in message:
            raise Moved(*_read_address(message["moved"]))
        nonces = self._nonce + _read_nonce(message)
        if not self._check(message.get("proof"), "server", nonces):
            raise Refusal("secret")
        self._put_object(proof=self._prove("client", nonces))
        self._begin(nonces, is_server=False)


class GuestChannel(Channel):
    """The side that only says at which port of the same host its run is served."""

    def __init__(self, credentials: Credentials, port: int) -> None:
        super().__init__(credentials)
        self._put_object(launcher=PROTOCOL_VERSION, run=credentials.tag, guest=port)

    def _shake_hands(self, message: dict[str, Any]) -> None:
        if "welcome" not in message:
            raise Refusal(str(message.get("refused", "")), str(message.get("detail", "")))


class ServerChannel(Channel):
    """The side that was connected to."""

    def __init__(
        self, credentials: Credentials, answer: Callable[[dict[str, Any]], dict[str, object]]
    ) -> None:
        """answer: to a greeting, as an object; an empty one goes on with the proofs."""
        super().__init__(credentials)
        self._answer = answer
        self._nonces = b""
        # The last answer is on its way: the connection ends with it.
        self.is_done = False

    def _shake_hands(self, message: dict[str, Any]) -> None:
        if self.is_done:
            return
        if self._nonces:
            if not self._check(message.get("proof"), "client", self._nonces):
                raise WireError("a proof that is none")
            self._begin(self._nonces, is_server=True)
            return
        if "launcher" not in message:
            raise WireError("no greeting")
        if message["launcher"] != PROTOCOL_VERSION:
            answer: dict[str, object] = {"refused": "version", "detail": str(PROTOCOL_VERSION)}
        else:
            answer = self._answer(message)
        if answer:
            self._put_object(**answer)
            self.is_done = "refused" in answer or "moved" in answer
            return
        nonce = os.urandom(16)
        self._nonces = _read_nonce(message) + nonce
        self._put_object(nonce=nonce.hex(), proof=self._prove("server", self._nonces))


def _make_code(key: bytes, number: int, body: bytes) -> bytes:
    return hmac_sha256(key, number.to_bytes(8, "big") + body)[:_CODE_BYTES]


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise WireError("no greeting of a node")
    return message


def _read_nonce(message: dict[str, Any]) -> bytes:
    try:
        nonce = bytes.fromhex(message["nonce"])
    except (KeyError, TypeError, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise WireError("no greeting of a node")
    return nonce


def _read_address(value: object) -> tuple[str, int]:
    if isinstance(value, list) and len(value) == 2:
        host, port = value
        if isinstance(host, str) and isinstance(port, int):
            return host, port
    raise WireError("no address")
