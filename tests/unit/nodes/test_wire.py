"""What travels between nodes: whole frames, in order, of those who know the secret, or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.nodes.wire import (
    PROTOCOL_VERSION,
    Channel,
    ClientChannel,
    Credentials,
    GuestChannel,
    Moved,
    Refusal,
    ServerChannel,
    WireError,
    _make_code,
)

SECRET = Credentials("run", b"a secret")


def answer_all(greeting: dict[str, Any]) -> dict[str, object]:
    return {}


def meet(
    ours: Credentials = SECRET, theirs: Credentials = SECRET
) -> tuple[ClientChannel, ServerChannel]:
    """Return two ends that have proved to each other who they are."""
    client, server = ClientChannel(ours), ServerChannel(theirs, answer_all)
    for source, target in ((client, server), (server, client), (client, server)):
        assert list(target.feed(source.take())) == []
    return client, server


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def say(**fields: object) -> bytes:
    return frame(json.dumps(fields).encode())


def feed(channel: Channel, data: bytes) -> list[Any]:
    return list(channel.feed(data))


def read_frames(data: bytes) -> list[bytes]:
    frames = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        frames.append(data[:end])
        data = data[end:]
    return frames


def test_what_one_end_says_the_other_hears_in_order_both_ways() -> None:
    client, server = meet()
    assert client.is_open and server.is_open
    for value in (["ping"], {"text": "é \U0001f600"}, [1, None, 0.5], ""):
        client.send(value)
        server.send([value])
    assert feed(server, client.take()) == [["ping"], {"text": "é \U0001f600"}, [1, None, 0.5], ""]
    assert feed(client, server.take())[0] == [["ping"]]
    assert client.take() == server.take() == b""


def test_frames_may_be_cut_at_every_byte() -> None:
    greeting_length = len(ClientChannel(SECRET).take())
    for cut in range(greeting_length + 1):
        client, server = ClientChannel(SECRET), ServerChannel(SECRET, answer_all)
        greeting = client.take()
        assert feed(server, greeting[:cut]) == []
        assert bool(server.take()) is (cut == greeting_length)
        assert feed(server, greeting[cut:]) == []
    client, server = meet()
    client.send(["first"])
    client.send(["second", 2])
    data = client.take()
    heard = [value for place in range(len(data)) for value in server.feed(data[place : place + 1])]
    assert heard == [["first"], ["second", 2]]


def test_a_proof_and_the_first_message_may_come_in_one_piece() -> None:
    client, server = ClientChannel(SECRET), ServerChannel(SECRET, answer_all)
    feed(server, client.take())
    feed(client, server.take())
    client.send(["join"])
    assert feed(server, client.take()) == [["join"]]


def test_a_stranger_is_not_listened_to_for_long() -> None:
    server = ServerChannel(SECRET, answer_all)
    with pytest.raises(WireError, match="a frame that is too long"):
        feed(server, (1025).to_bytes(4, "big"))
    server = ServerChannel(SECRET, answer_all)
    assert feed(server, frame(b" " * 1024)[:-1]) == []


def test_a_node_of_the_run_may_say_more_but_not_without_end() -> None:
    client, server = meet()
    text = "x" * 100_000
    client.send(text)
    assert feed(server, client.take()) == [text]
    with pytest.raises(WireError, match="a frame that is too long"):
        feed(server, ((16 << 20) + 1).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="web browser"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(frame(b""), id="empty frame"),
        pytest.param(frame(b"\xff\xfe"), id="no text"),
        pytest.param(frame(b"[" * 1000), id="deep"),
        pytest.param(frame(b"5"), id="no object"),
        pytest.param(say(), id="nothing said"),
        pytest.param(say(launcher=PROTOCOL_VERSION, run=SECRET.tag), id="no nonce"),
        pytest.param(say(launcher=PROTOCOL_VERSION, run=SECRET.tag, nonce=5), id="number"),
        pytest.param(say(launcher=PROTOCOL_VERSION, run=SECRET.tag, nonce="ab"), id="short nonce"),
        pytest.param(say(launcher=PROTOCOL_VERSION, run=SECRET.tag, nonce="zz"), id="no hex"),
    ],
)
def test_whoever_does_not_greet_as_a_node_is_no_node(data: bytes) -> None:
    server = ServerChannel(SECRET, answer_all)
    with pytest.raises(WireError):
        feed(server, data)
    assert not server.is_open and server.take() == b""


@pytest.mark.parametrize("proof", [None, 5, "", "00" * 32, "é", ["a"]])
def test_a_wrong_proof_opens_nothing(proof: object) -> None:
    client, server = ClientChannel(SECRET), ServerChannel(SECRET, answer_all)
    feed(server, client.take())
    server.take()
    with pytest.raises(WireError, match="a proof that is none"):
        feed(server, say(proof=proof))
    assert not server.is_open


def test_a_coordinator_proves_itself_first_and_to_each_node_anew() -> None:
    _, server = ClientChannel(SECRET), ServerChannel(SECRET, answer_all)
    feed(server, ClientChannel(SECRET).take())
    told_another = server.take()
    client = ClientChannel(SECRET)
    client.take()
    with pytest.raises(Refusal) as refused:
        feed(client, told_another)
    assert refused.value.kind == "secret"
    assert client.take() == b"" and not client.is_open


def test_a_proof_of_one_side_is_none_of_the_other() -> None:
    client, server = ClientChannel(SECRET), ServerChannel(SECRET, answer_all)
    feed(server, client.take())
    [answer] = read_frames(server.take())
    with pytest.raises(WireError, match="a proof that is none"):
        feed(server, say(proof=json.loads(answer[4:])["proof"]))


def test_who_has_another_secret_learns_so_and_is_not_heard() -> None:
    client, server = ClientChannel(Credentials("run", b"x")), ServerChannel(SECRET, answer_all)
    feed(server, client.take())
    with pytest.raises(Refusal) as refused:
        feed(client, server.take())
    assert refused.value.kind == "secret"
    assert not client.is_open and not server.is_open


def sent_by(client: ClientChannel, *values: object) -> list[bytes]:
    for value in values:
        client.send(value)
    return read_frames(client.take())


@pytest.mark.parametrize(
    ("heard", "wrong"), [("a", 0), ("", 1), ("a", 2), ("ab", 0)], ids=["again", "b", "c", "old"]
)
def test_a_frame_counts_once_and_in_its_place(heard: str, wrong: int) -> None:
    client, server = meet()
    frames = sent_by(client, "a", "b", "c")
    assert feed(server, b"".join(frames[: len(heard)])) == list(heard)
    with pytest.raises(WireError, match="nobody of this run has made"):
        feed(server, frames[wrong])


def test_a_frame_that_was_changed_anywhere_is_none() -> None:
    client, _ = meet()
    [data] = sent_by(client, ["stop"])
    for place in range(4, len(data)):
        client, server = meet()
        [data] = sent_by(client, ["stop"])
        changed = data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]
        with pytest.raises(WireError, match="nobody of this run has made"):
            feed(server, changed)


def test_what_a_node_has_said_is_not_taken_from_another_connection_or_sent_back() -> None:
    [data] = sent_by(meet()[0], ["stop"])
    client, server = meet()
    with pytest.raises(WireError, match="nobody of this run has made"):
        feed(server, data)
    [data] = sent_by(client, ["stop"])
    with pytest.raises(WireError, match="nobody of this run has made"):
        feed(client, data)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_frame_of_a_node_that_is_no_message_ends_the_connection(body: bytes) -> None:
    client, server = meet()
    data = frame(_make_code(client._sending_key, 0, body) + body)
    with pytest.raises(WireError, match="a frame that is no message"):
        feed(server, data)


# --- who is met ---------------------------------------------------------------------------------


def test_another_version_is_told_before_anything_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ClientChannel(SECRET)
    greeting = client.take()
    monkeypatch.setattr("launcher.nodes.wire.PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    server = ServerChannel(SECRET, answer_all)
    feed(server, greeting)
    with pytest.raises(Refusal) as refused:
        feed(client, server.take())
    assert (refused.value.kind, refused.value.detail) == ("version", str(PROTOCOL_VERSION + 1))
    assert server.is_done and not server.is_open


def test_a_greeting_names_the_run_by_its_tag_alone() -> None:
    credentials = Credentials("a-run-of-mine", b"a secret")
    greetings: list[dict[str, Any]] = []

    def note(greeting: dict[str, Any]) -> dict[str, object]:
        greetings.append(greeting)
        return {"refused": "run"}

    client, server = ClientChannel(credentials), ServerChannel(SECRET, note)
    data = client.take()
    assert b"a-run-of-mine" not in data and b"a secret" not in data
    feed(server, data)
    assert greetings[0]["run"] == credentials.tag != SECRET.tag
    assert credentials.tag == Credentials("a-run-of-mine", b"another").tag
    with pytest.raises(Refusal) as refused:
        feed(client, server.take())
    assert refused.value.kind == "run"
    assert server.is_done


def test_after_its_last_answer_a_server_hears_nothing() -> None:
    server = ServerChannel(SECRET, lambda greeting: {"refused": "run"})
    feed(server, ClientChannel(SECRET).take())
    server.take()
    assert feed(server, ClientChannel(SECRET).take()) == []
    assert server.take() == b""


def test_ids_and_secrets_do_not_flow_into_each_other() -> None:
    for other in (Credentials("ru", b"na secret"), Credentials("runa", b" secret")):
        assert other.make_code("server", b"") != SECRET.make_code("server", b"")


def test_without_a_secret_nodes_with_the_same_id_meet() -> None:
    client, server = meet(Credentials("run", b""), Credentials("run", b""))
    client.send(["join"])
    assert feed(server, client.take()) == [["join"]]


def test_a_server_may_send_a_node_elsewhere() -> None:
    client = ClientChannel(SECRET)
    server = ServerChannel(SECRET, lambda greeting: {"moved": ["fe80::1", 29500]})
    feed(server, client.take())
    with pytest.raises(Moved) as moved:
        feed(client, server.take())
    assert (moved.value.host, moved.value.port) == ("fe80::1", 29500)
    assert server.is_done


@pytest.mark.parametrize("there", [None, "h", ["h"], ["h", "1"], [1, 1], ["h", 1, 2]])
def test_who_is_sent_to_no_address_is_not_sent_anywhere(there: object) -> None:
    client = ClientChannel(SECRET)
    with pytest.raises(WireError, match="no address"):
        feed(client, say(moved=there))


def test_a_guest_only_says_where_its_run_is_served() -> None:
    greetings: list[dict[str, Any]] = []

    def note(greeting: dict[str, Any]) -> dict[str, object]:
        greetings.append(greeting)
        return {"welcome": 1}

    guest, server = GuestChannel(SECRET, 4711), ServerChannel(Credentials("other", b""), note)
    feed(server, guest.take())
    assert feed(guest, server.take()) == []
    assert (greetings[0]["guest"], greetings[0]["run"]) == (4711, SECRET.tag)
    assert not server.is_done and not guest.is_open
    with pytest.raises(Refusal) as refused:
        feed(GuestChannel(SECRET, 4711), say(refused="guest"))
    assert refused.value.kind == "guest"
