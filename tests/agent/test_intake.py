"""The socket that takes chunks out of the stream before paho reads it."""

from __future__ import annotations

import socket
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab_agent import intake
from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES
from trimtab_agent.intake import MAX_PACKET_BYTES, Intake, read_begin
from trimtab_agent.window import WINDOW, Inbox

TOPIC = "trimtab/v1/blob/" + 64 * "a"


def packet(first_byte: int, body: bytes) -> bytes:
    length, encoded = len(body), b""
    while True:
        length, digit = divmod(length, 128)
        encoded += bytes([digit | 0x80 if length else digit])
        if not length:
            return bytes([first_byte]) + encoded + body


def publish(topic: str | bytes, payload: bytes, *, qos: int = 0, properties: bytes = b"") -> bytes:
    name = topic if isinstance(topic, bytes) else topic.encode()
    head = len(name).to_bytes(2, "big") + name + (b"\0\7" if qos else b"")
    return packet(0x30 | qos << 1, head + bytes([len(properties)]) + properties + payload)


class Pieces:
    """A socket on which bytes come in pieces; between them there are none for a moment."""

    def __init__(self, pieces: list[bytes], none_yet: type[Exception] = BlockingIOError) -> None:
        self._pieces = pieces
        self._none_yet = none_yet
        self._came = False
        self.close = self.fileno = self.getsockopt = self.send = None
        self.setblocking = self.setsockopt = None

    def recv(self, size_bytes: int) -> bytes:
        if not self._pieces:
            return b""
        if not self._came:
            self._came = True
            raise self._none_yet
        data, rest = self._pieces[0][:size_bytes], self._pieces[0][size_bytes:]
        if rest:
            self._pieces[0] = rest
        else:
            del self._pieces[0]
            self._came = False
        return data


def read_all(stream: Intake, size_bytes: int) -> bytes:
    """Reads as paho does: until the stream ends, again after each "none yet"."""
    found = b""
    while True:
        try:
            data = stream.recv(size_bytes)
        except (BlockingIOError, ssl.SSLWantReadError):
            continue
        if not data:
            return found
        found += data


def taken(inbox: Inbox) -> list[tuple[str, bytes]]:
    messages = []
    while message := inbox.take(0):
        messages.append((message.topic, message.payload))
        assert message.properties == {}
    return messages


PACKETS = st.one_of(
    st.tuples(st.just(TOPIC), st.binary(max_size=3000)),
    st.tuples(st.sampled_from(["another/topic", "", 300 * "x"]), st.binary(max_size=400)),
    st.tuples(st.none(), st.binary(max_size=300)),
)


@settings(max_examples=60)
@given(
    packets=st.lists(PACKETS, max_size=12),
    cuts=st.lists(st.integers(1, 4000), max_size=40),
    size_bytes=st.sampled_from([1, 7, 5000]),
    none_yet=st.sampled_from([BlockingIOError, ssl.SSLWantReadError]),
)
def test_each_byte_goes_to_one_of_them_however_it_comes(packets, cuts, size_bytes, none_yet):
    data = b"".join(
        packet(0x90, payload) if topic is None else publish(topic, payload)
        for topic, payload in packets
    )
    pieces = []
    for cut in cuts:
        pieces, data = [*pieces, data[:cut]], data[cut:]
    inbox = Inbox(100)
    stream = Intake(
        Pieces([piece for piece in [*pieces, data] if piece], none_yet), {TOPIC: inbox}.get
    )
    for_paho = read_all(stream, size_bytes)
    assert taken(inbox) == [(TOPIC, payload) for topic, payload in packets if topic == TOPIC]
    assert for_paho == b"".join(
        packet(0x90, payload) if topic is None else publish(topic, payload)
        for topic, payload in packets
        if topic != TOPIC
    )


LEFT_TO_PAHO = {
    "an acknowledged one": publish(TOPIC, b"x", qos=1),
    "one with properties": publish(TOPIC, b"x", properties=b"\x01\x01"),
    "one that names a topic longer than itself": packet(0x30, b"\xff\xff" + TOPIC.encode()),
    "one whose properties lack": packet(0x30, b"\0\x03abc"),
    "one that is no text": publish(b"\xff\xfe", b"x"),
    "an empty one": packet(0x30, b""),
    "one that is too large": publish(TOPIC, bytes(MAX_CHUNK_BYTES + 1)),
    "another kind": packet(0xD0, b""),
}


@pytest.mark.parametrize("case", LEFT_TO_PAHO)
def test_what_is_not_plain_is_left_to_paho(case):
    data = LEFT_TO_PAHO[case]
    inbox = Inbox(4)
    stream = Intake(Pieces([data]), lambda topic: inbox)
    assert read_all(stream, 1 << 30) == data
    assert taken(inbox) == []


@pytest.mark.parametrize(
    "data",
    [
        publish(TOPIC, bytes(MAX_PACKET_BYTES))[:1000],
        publish("another/topic", bytes(MAX_PACKET_BYTES))[:1000],
        b"\x90\xff\xff\xff\xff\xff\x01",
    ],
)
def test_a_broker_that_sends_what_is_too_large_is_left_at_once(data):
    stream = Intake(Pieces([data]), lambda topic: None)
    with pytest.raises(ConnectionError, match=r"^a packet of \d+ bytes$"):
        read_all(stream, 1 << 30)


def test_what_was_left_to_paho_does_not_stop_what_follows():
    inbox = Inbox(4)
    answer, chunk = packet(0x90, b"answer"), publish(TOPIC, b"chunk")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = Intake(ours, {TOPIC: inbox}.get)
        theirs.sendall(answer + chunk)
        assert stream.recv(1) + stream.recv(100) == answer
        assert stream.pending()  # nothing more may come, so `select` would not tell
        with pytest.raises(BlockingIOError):
            stream.recv(1)
        assert not stream.pending()
        assert taken(inbox) == [(TOPIC, b"chunk")]


def test_paho_gets_its_turn_between_many_messages():
    inbox = Inbox(100)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = Intake(ours, {TOPIC: inbox}.get)
        theirs.sendall(2 * WINDOW * publish(TOPIC, b"chunk"))
        with pytest.raises(BlockingIOError):
            stream.recv(1)
        assert len(taken(inbox)) == WINDOW
        assert stream.pending()
        with pytest.raises(BlockingIOError):
            stream.recv(1)
        assert len(taken(inbox)) == WINDOW


def test_paho_sees_a_message_now_and_then(monkeypatch):
    monkeypatch.setattr(intake, "LONGEST_HIDDEN_S", -1.0)
    inbox = Inbox(4)
    stream = Intake(Pieces([publish(TOPIC, b"chunk")]), {TOPIC: inbox}.get)
    assert read_all(stream, 100) == publish(TOPIC, b"chunk")


def test_a_begin_is_read_from_as_little_as_is_needed():
    data = publish(TOPIC, bytes(1000))
    assert all(read_begin(data[:end]) is None for end in range(intake.HEAD_BYTES))
    begin = read_begin(data[: intake.HEAD_BYTES])
    assert begin == (len(data), TOPIC, 1000)
