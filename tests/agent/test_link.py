"""One contract suite for `Link` over every broker that is supported."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time

import pytest

from support import agent_brokers as brokers
from trimtab_agent.contract.chunks import MAX_CHUNK_BYTES
from trimtab_agent.errors import BrokerError, CallerError
from trimtab_agent.link import MAX_PACKET_BYTES, BrokerUrl, Link, parse_broker_url


@pytest.fixture(params=brokers.KINDS, scope="module")
def url(request, tmp_path_factory):
    with brokers.broker(request.param, tmp_path_factory.mktemp("broker")) as address:
        yield address


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self):
        self.messages = queue.Queue()
        self.threads = set()

    def __call__(self, topic, payload, properties):
        self.threads.add(threading.current_thread().name)
        self.messages.put((topic, payload, properties))

    def next(self, timeout_s=5.0):
        return self.messages.get(timeout=timeout_s)


@pytest.fixture
def pair(url, request):
    name = str(abs(hash(request.node.nodeid)))
    with Link(url, f"a{name}") as one, Link(url, f"b{name}") as two:
        one.connect(5)
        two.connect(5)
        yield one, two, f"test/{name}"


def test_a_message_arrives_with_its_properties_on_the_worker_thread(pair):
    one, two, topic = pair
    inbox = Inbox()
    two.subscribe(topic, inbox)
    time.sleep(0.2)
    one.publish(topic, b"\x00\xffdata", wait_s=5, properties={"parts": "3"})
    assert inbox.next() == (topic, b"\x00\xffdata", {"parts": "3"})
    (thread,) = inbox.threads
    assert thread.startswith("trimtab-link-")


def test_retained_messages_of_many_topics_come_and_come_again_after_unsubscribe(pair):
    one, two, topic = pair
    topics = [f"{topic}/{index}" for index in range(20)]  # more than fit one SUBSCRIBE
    for each in topics:
        one.publish(each, each.encode(), retain=True, wait_s=5)
    for _ in range(2):
        inbox = Inbox()
        two.subscribe_many(topics, inbox)
        assert {inbox.next()[0] for _ in topics} == set(topics)
        two.unsubscribe(*topics)
        time.sleep(0.2)


def test_a_wildcard_and_an_exact_topic_each_reach_their_own_handler(pair):
    one, two, topic = pair
    exact, wild = Inbox(), Inbox()
    two.subscribe(f"{topic}/a", exact)
    two.subscribe(f"{topic}/+/report", wild)
    time.sleep(0.2)
    one.publish(f"{topic}/dev/report", b"1", wait_s=5)
    one.publish(f"{topic}/a", b"2", wait_s=5)
    assert wild.next()[1] == b"1"
    assert exact.next()[1] == b"2"


def test_a_handler_that_raises_does_not_end_the_delivery(pair, caplog):
    one, two, topic = pair
    inbox = Inbox()

    def handler(topic, payload, properties):
        if payload == b"bad":
            raise RuntimeError("broken handler")
        inbox(topic, payload, properties)

    two.subscribe(topic, handler)
    time.sleep(0.2)
    one.publish(topic, b"bad", wait_s=5)
    one.publish(topic, b"good", wait_s=5)
    assert inbox.next()[1] == b"good"
    assert "broken handler" in caplog.text


def test_a_slow_handler_holds_the_sender_back_and_loses_nothing(pair):
    one, two, topic = pair
    inbox, gate = Inbox(), threading.Event()

    def slow(*message):
        gate.wait(10)
        inbox(*message)

    two.subscribe(topic, slow)
    time.sleep(0.2)
    for number in range(400):  # more than the queue holds
        one.publish(topic, str(number).encode())
    time.sleep(0.5)
    gate.set()
    assert [int(inbox.next()[1]) for _ in range(400)] == list(range(400))


def test_a_handler_may_publish_but_not_wait(pair, caplog):
    one, two, topic = pair
    inbox, errors = Inbox(), Inbox()

    def answer(_topic, payload, _properties):
        two.publish(f"{topic}/answer", payload)
        try:
            two.publish(f"{topic}/answer", b"never", wait_s=1)
        except CallerError as error:
            errors(str(error), b"", {})

    one.subscribe(f"{topic}/answer", inbox)
    two.subscribe(f"{topic}/question", answer)
    time.sleep(0.2)
    one.publish(f"{topic}/question", b"?", wait_s=5)
    assert inbox.next()[1] == b"?"
    assert "a handler cannot wait" in errors.next()[0]


def test_the_will_is_published_when_the_process_vanishes(url):
    inbox = Inbox()
    with Link(url, "heir") as heir:
        heir.connect(5)
        heir.subscribe("test/will", inbox)
        with Link(url, "mortal", will=("test/will", b"gone")) as mortal:
            mortal.connect(5)
            time.sleep(0.2)
            # What a power cut looks like to the broker: the socket ends without a DISCONNECT.
            mortal._client._sock.shutdown(socket.SHUT_RDWR)
            assert inbox.next()[1] == b"gone"


def test_a_fault_in_a_callback_of_paho_is_logged_and_survived(pair, caplog):
    one, two, topic = pair
    inbox = Inbox()
    two.subscribe(topic, inbox)
    time.sleep(0.2)
    two._worker.put = lambda call: 1 / 0
    one.publish(topic, b"1", wait_s=5)
    time.sleep(0.2)
    del two._worker.put
    one.publish(topic, b"2", wait_s=5)
    assert inbox.next()[1] == b"2"
    assert "Caught exception in on_message: division by zero" in caplog.text


def test_nodelay_is_set(pair):
    one, _, _ = pair
    assert one._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def publish_until_refused(link, topic):
    for _ in range(50):
        link.publish(topic, b"lost")
        time.sleep(0.1)


@pytest.mark.parametrize("kind", brokers.KINDS)
def test_subscriptions_outlive_a_broker_that_is_restarted(kind, tmp_path):
    port = brokers.free_port()
    inbox, connections = Inbox(), Inbox()
    with brokers.broker(kind, tmp_path, port=port) as address:
        link = Link(address, "survivor")
        link.when_connected(lambda: connections("connected", b"", {}))
        link.connect(5)
        link.subscribe("test/again", inbox)
        connections.next()
    try:
        with pytest.raises(BrokerError, match="not sent, there is no connection"):
            publish_until_refused(link, "test/again")
        with brokers.broker(kind, tmp_path, port=port) as address, Link(address, "other") as other:
            connections.next(15)
            time.sleep(0.3)
            other.connect(5)
            other.publish("test/again", b"back", wait_s=5)
            # What was handed over before the loss was noticed is sent again: at least once.
            while (payload := inbox.next()[1]) != b"back":
                assert payload == b"lost"
    finally:
        link.close()


def test_the_brokers_packet_limit_is_known_and_kept(tmp_path):
    with (
        brokers.broker("mosquitto", tmp_path, extra="max_packet_size 50000") as address,
        Link(address, "small") as link,
    ):
        assert link.max_payload_bytes is None
        link.connect(5)
        assert link.max_payload_bytes == 50000 - 1024
        with pytest.raises(CallerError, match="50000 bytes; the broker takes at most 48976"):
            link.publish("test/big", bytes(50000), wait_s=5)
        link.publish("test/fits", bytes(48976), wait_s=5)


def test_a_packet_that_is_too_large_never_reaches_this_side(tmp_path):
    inbox = Inbox()
    with (
        brokers.broker("mosquitto", tmp_path) as url,
        Link(url, "sender") as sender,
        Link(url, "reader") as reader,
    ):
        for link in (sender, reader):
            link.connect(5)
        sender.publish("test/huge", bytes(MAX_PACKET_BYTES), retain=True, wait_s=10)
        sender.publish("test/large", bytes(MAX_CHUNK_BYTES), retain=True, wait_s=10)
        reader.subscribe_many(["test/huge", "test/large"], inbox)
        assert inbox.next()[0] == "test/large"
        assert reader.connections == 1


def test_nobody_listens():
    address = BrokerUrl("127.0.0.1", brokers.free_port())
    with (
        Link(address, "lonely") as link,
        pytest.raises(BrokerError, match=r"cannot reach the broker at mqtt://127\.0\.0\.1"),
    ):
        link.connect(2)


def test_connect_may_be_tried_again(tmp_path):
    port = brokers.free_port()
    with Link(BrokerUrl("127.0.0.1", port), "patient") as link:
        with pytest.raises(BrokerError):
            link.connect(2)
        with brokers.broker("mosquitto", tmp_path, port=port):
            link.connect(5)
            assert link.connected


def test_something_else_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = BrokerUrl("127.0.0.1", server.getsockname()[1])
        with (
            Link(address, "puzzled") as link,
            pytest.raises(BrokerError, match="does it speak MQTT 5"),
        ):
            link.connect(0.5)


def test_a_broker_that_refuses_says_why(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    with (
        brokers.broker("mosquitto", tmp_path, extra=f"password_file {passwords}") as address,
        Link(address, "stranger") as link,
        pytest.raises(BrokerError, match="refuses: Not authorized"),
    ):
        link.connect(5)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884),
        ("mqtt://broker.example", "broker.example", 1883),
        ("mqtt://[::1]:99/", "::1", 99),
    ],
)
def test_broker_urls(text, host, port):
    address = parse_broker_url(text)
    assert address == BrokerUrl(host, port)
    assert parse_broker_url(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:1883",
        "http://x",
        "mqtt://",
        "mqtt://x:0",
        "mqtt://x:70000",
        "mqtt://x:y",
        "mqtt://a b",
    ],
)
def test_bad_broker_urls(text):
    with pytest.raises(CallerError, match="is not of the form mqtt://HOST"):
        parse_broker_url(text)
