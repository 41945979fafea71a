"""One MQTT 5 connection: subscriptions that outlive reconnects, handlers off the network thread.

What paho-mqtt leaves to its callers, and what is done about it here:

* It does not set TCP_NODELAY; Nagle's algorithm and delayed acknowledgements then make transfers
  ten times slower. Set on every socket.
* Its callbacks run on the network thread: one that blocks stalls the connection, and one that
  raises ends the thread while `is_connected()` stays true. Handlers run on a worker thread behind
  a bounded queue, and paho is told to log what its own callbacks raise.
* It ignores the broker's MaximumPacketSize and then reconnects and resends for ever. `publish`
  refuses what is too large.
* It queues without limit while offline. `publish` refuses while there is no connection.
* Subscriptions are gone after a reconnect. They are made again.
* It waits the same time as every other client before it connects again. Here each draws its wait.
* It drops what TLS said when a connection is refused. `tls.TlsContext` keeps it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from trimtab_agent.backoff import full_jitter_s
from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.contract.wants import CORRELATION, RESPONSE_TOPIC
from trimtab_agent.errors import BrokerError, CallerError, IdentityError, TransferTimeoutError
from trimtab_agent.intake import MAX_PACKET_BYTES, Intake
from trimtab_agent.tls import TlsContext, TlsFiles
from trimtab_agent.window import FILTERS, Handler, Inbox
from trimtab_agent.worker import Worker

__all__ = ["BrokerUrl", "Link", "parse_broker_url"]

_log = logging.getLogger(__name__)
_QUEUE_LENGTH = 256
"""Messages that wait for their handler. When it is full the network thread waits, TCP pushes
back, and the broker's own queue takes over."""
_HEADROOM_BYTES = 1024
"""Of a packet: fixed header, topic and properties beside the payload."""
_TCP_INFO_BYTES = 56
_LAST_DATA_RECV = 52
"""Offset of `tcpi_last_data_recv`, behind 8 fields of one byte and 11 of four."""
_MAX_OUTGOING = 1000
"""Publishes without an acknowledgement; beyond, paho refuses."""
_RECONNECT_FIRST_S = 2.0
_RECONNECT_MAX_S = 60.0
_SHARED = re.compile(r"^\$share/[^/]+/")
"""Of a filter whose messages several clients divide among them (MQTT 5.0, section 4.8.2)."""


class Link:
    """A connection to a broker. Use it as a context manager; every method is thread-safe.

    Args:
        broker: Where it listens.
        client_id: Unique at the broker: a second client with the same id ends the first one's
            connection.
        will: Topic and payload that the broker publishes, retained, when this side vanishes.
        tls: This side's certificates; what an `mqtts` broker needs and another has no use for.
        login: User name and password, where the broker asks for them.

    Raises:
        IdentityError: The broker wants TLS, and the certificates are missing or unusable.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        client_id: str,
        *,
        will: tuple[str, bytes] | None = None,
        tls: TlsFiles | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._will = will
        self._login = login
        self._tls = _tls_context(broker, tls)
        self._client = self._new_client()
        self._lock = threading.Lock()
        self._subscriptions: dict[str, Handler] = {}
        self._on_connected: list[Callable[[], None]] = []
        self._answered = threading.Event()
        self._refusal: str | None = None
        self._max_packet_bytes: int | None = None
        self._retains = True
        self._connections = 0
        self._failures = 0
        self._refused_publishes: dict[int, str] = {}
        self._worker = Worker(f"trimtab-link-{client_id}", length=_QUEUE_LENGTH)

    def _new_client(self) -> mqtt.Client:
        """Makes paho's client; nothing is connected yet."""
        client = _Client(self._client_id, self._find_inbox)
        client.suppress_exceptions = True
        client.enable_logger(_paho_log)  # `on_log` would have every packet put into words
        client.max_queued_messages_set(_MAX_OUTGOING)
        client.on_socket_open = _set_nodelay
        client.on_pre_connect = self._before_connecting
        client.on_connect = self._connected
        client.on_connect_fail = self._not_connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        if self._will:
            client.will_set(self._will[0], self._will[1], qos=1, retain=True)
        if self._login:
            client.username_pw_set(*self._login)
        if self._tls:
            client.tls_set_context(self._tls.context)
        return client

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self, timeout_s: float) -> None:
        """Connects; from then on the connection mends itself until `close`.

        May be called again after it failed.

        Args:
            timeout_s: Longest wait for the TCP connection, and again for the broker's answer.

        Raises:
            BrokerError: Nothing listens there, or the broker refuses, or does not answer.
        """
        self._answered.clear()
        self._client.connect_timeout = timeout_s
        try:
            self._client.connect(
                self._broker.host,
                self._broker.port,
                clean_start=True,
                properties=_connect_properties(),
            )
        except OSError as error:
            self._stop_network()
            why = self._tls_refusal() or error
            raise BrokerError(f"cannot reach the broker at {self._broker}: {why}") from error
        self._client.loop_start()
        if not self._answered.wait(timeout_s):
            self._stop_network()
            raise BrokerError(
                f"{self._broker} accepts connections but did not answer within {timeout_s:g} s: "
                f"does it speak MQTT 5{'' if self._tls else ', without TLS'}?"
            )
        if self._refusal:
            self._stop_network()
            raise BrokerError(f"the broker at {self._broker} refuses: {self._refusal}")

    def renew_tls(self) -> None:
        """Reads the certificates again and connects anew with them; does nothing without TLS.

        Raises:
            IdentityError: They are missing or unusable; the connection stays as it is.
        """
        connection = self._client.socket()
        if self._tls:
            self._tls.load()
            if isinstance(connection, Intake):
                with contextlib.suppress(OSError):  # it is lost already, and mends itself
                    connection.shutdown(socket.SHUT_RDWR)

    def _tls_refusal(self) -> str | None:
        return self._tls.explain_last() if self._tls else None

    def close(self) -> None:
        """Disconnects and waits for the handler that runs. A closed link cannot be used again."""
        # The worker first: the network thread may be waiting for room in its queue.
        self._worker.close()
        self._stop_network()

    def _stop_network(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # paho closes the socket pair that wakes its thread only when the client is deleted, and
        # its callbacks tie it into a cycle with this link. Replaced, it is deleted right here.
        self._client = self._new_client()

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._client.is_connected()

    @property
    def connections(self) -> int:
        """How many connections were made. What was under way in one is lost in the next."""
        return self._connections

    @property
    def silent_s(self) -> float | None:
        """How long ago the last byte came, of whatever; None without a connection.

        A large message on a slow line is on its way for long. paho tells of it when it is whole,
        the kernel of every piece (`struct tcp_info` in linux/tcp.h).
        """
        connection: Any = self._client.socket()
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except (AttributeError, OSError):  # there is none, or it is being closed
            return None
        last_data_recv_ms: int = struct.unpack_from("=I", info, _LAST_DATA_RECV)[0]
        return last_data_recv_ms / 1000

    @property
    def retains(self) -> bool:
        """Whether the broker keeps retained messages, by what it said last."""
        return self._retains

    @property
    def max_payload_bytes(self) -> int | None:
        """Largest payload the broker takes, or None when it named no limit."""
        limit = self._max_packet_bytes
        return None if limit is None else max(limit - _HEADROOM_BYTES, 0)

    def when_connected(self, call: Callable[[], None]) -> None:
        """Has `call` run on the worker thread after every connection that is made from now on."""
        with self._lock:
            self._on_connected.append(call)

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Subscribes to one topic or filter; see `subscribe_many`."""
        self.subscribe_many([topic], handler)

    def subscribe_many(self, topics: Sequence[str], handler: Handler) -> None:
        """Subscribes to several topics or filters, now and after each reconnect.

        The QoS is 1, but 0 for an `Inbox`.

        Args:
            topics: A second subscription to the same one replaces its handler.
            handler: Runs on this link's worker thread, one message at a time. What it raises is
                logged and goes no further. It gets the MQTT 5 user properties, and the response
                topic and the correlation data under the names in `contract.wants`.
        """
        with self._lock:
            self._subscriptions.update(dict.fromkeys(topics, handler))
        if self.connected:
            self._send_subscriptions(list(topics))

    def unsubscribe(self, *topics: str) -> None:
        """Ends the subscriptions to `topics`; messages on their way are dropped."""
        with self._lock:
            for topic in topics:
                self._subscriptions.pop(topic, None)
        if self.connected:
            for start in range(0, len(topics), FILTERS):
                self._client.unsubscribe(list(topics[start : start + FILTERS]))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        wait_s: float | None = None,
        properties: dict[str, str] | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Publishes one message.

        Args:
            topic: Where to.
            payload: The message; empty and retained clears what was retained before.
            retain: Whether the broker keeps it for later subscribers.
            qos: 0 or 1.
            wait_s: Longest wait for the broker's acknowledgement; None means: do not wait.
                Not from a handler, which would hold up the thread that it waits for.
            properties: MQTT 5 user properties.
            response_topic: MQTT 5 response topic: where an answer should go.
            correlation: MQTT 5 correlation data: what the answer should carry.

        Raises:
            CallerError: It is larger than the broker takes, or waits within a handler.
            BrokerError: There is no connection, too much is waiting, or the broker refused it.
            TransferTimeoutError: No acknowledgement within `wait_s`.
        """
        limit = self.max_payload_bytes
        if limit is not None and len(payload) > limit:
            raise CallerError(f"{topic}: {len(payload)} bytes; the broker takes at most {limit}")
        if wait_s is not None and self._worker.is_caller:
            raise CallerError(f"{topic}: a handler cannot wait for a publish")
        unconnected = f"{topic}: not sent, there is no connection to {self._broker}"
        if not self.connected:
            raise BrokerError(unconnected)
        info = self._client.publish(
            topic,
            payload,
            qos=qos,
            retain=retain,
            properties=_publish_properties(properties, response_topic, correlation),
        )
        if info.rc == mqtt.MQTT_ERR_NO_CONN:  # paho has seen it lost, its callback has not run yet
            raise BrokerError(unconnected)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise BrokerError(f"{topic}: not sent: {mqtt.error_string(info.rc)}")
        if wait_s is not None:
            self._await_acknowledgement(topic, info, wait_s)

    def _await_acknowledgement(self, topic: str, info: mqtt.MQTTMessageInfo, wait_s: float) -> None:
        info.wait_for_publish(wait_s)
        if not info.is_published():
            raise TransferTimeoutError(f"{topic}: no acknowledgement within {wait_s:g} s")
        refusal = self._refused_publishes.pop(info.mid, None)
        if refusal:
            raise BrokerError(f"{topic}: refused by the broker: {refusal}")

    def _send_subscriptions(self, topics: list[str]) -> None:
        """Sends SUBSCRIBE packets with at most `FILTERS` topics each."""
        with self._lock:
            wanted = [
                (topic, _qos(self._subscriptions[topic]))
                for topic in topics
                if topic in self._subscriptions
            ]
        for start in range(0, len(wanted), FILTERS):
            self._client.subscribe(wanted[start : start + FILTERS])

    # What follows runs on paho's network thread and must neither block for long nor raise.

    def _connected(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._refusal = str(reason) if reason.is_failure else None
        self._answered.set()
        if reason.is_failure:
            _log.warning("%s refuses: %s", self._broker, reason)
            self._draw_delay()
            return
        self._failures = 0
        self._connections += 1
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self._retains = bool(getattr(properties, "RetainAvailable", 1))
        with self._lock:
            topics, calls = list(self._subscriptions), list(self._on_connected)
        self._send_subscriptions(topics)
        for call in calls:
            self._worker.put(call)

    def _draw_delay(self) -> None:
        """Sets how long paho waits before it connects again, which it does after this callback."""
        delay_s = full_jitter_s(
            self._failures, first_s=_RECONNECT_FIRST_S, longest_s=_RECONNECT_MAX_S
        )
        self._failures += 1
        # It declares whole seconds and computes with what it is given.
        self._client.reconnect_delay_set(delay_s, _RECONNECT_MAX_S)  # type: ignore[arg-type]

    def _before_connecting(self, _client: mqtt.Client, _data: object) -> None:
        """Takes the certificates as they are now: they may have been renewed meanwhile."""
        if self._tls:
            try:
                self._tls.load()
            except IdentityError as error:
                _log.warning("%s", error)

    def _not_connected(self, _client: mqtt.Client, _data: object) -> None:
        self._draw_delay()
        why = self._tls_refusal()
        if why and not self._worker.closing:
            _log.warning("cannot connect to %s: %s", self._broker, why)

    def _disconnected(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._draw_delay()
        why = self._tls_refusal()
        if why and not self._answered.is_set():
            self._refusal = why
            self._answered.set()
        elif reason.is_failure and not self._worker.closing:
            _log.warning("connection to %s lost: %s", self._broker, why or reason)

    def _subscribed(
        self,
        _client: mqtt.Client,
        _data: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                _log.error("%s refuses a subscription: %s", self._broker, reason)

    def _published(
        self,
        _client: mqtt.Client,
        _data: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _log.error("%s refuses a message: %s", self._broker, reason)
            self._refused_publishes[mid] = str(reason)
        else:
            self._refused_publishes.pop(mid, None)  # of an earlier message: ids have 16 bits

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        properties = _received_properties(message.properties)
        with self._lock:
            exact = self._subscriptions.get(topic)
        if isinstance(exact, Inbox):  # with properties, which `Intake` leaves to paho
            exact(topic, payload, properties)
        else:
            self._worker.put(lambda: self._handle(topic, payload, properties))

    def _find_inbox(self, topic: str) -> Inbox | None:
        handler = self._subscriptions.get(topic)
        return handler if isinstance(handler, Inbox) else None

    # What follows runs on the worker thread.

    def _handle(self, topic: str, payload: bytes, properties: dict[str, str]) -> None:
        """Calls the handlers whose topic or filter matches."""
        with self._lock:
            exact = self._subscriptions.get(topic)
            handlers = (
                [exact]
                if exact
                else [
                    handler
                    for pattern, handler in self._subscriptions.items()
                    if mqtt.topic_matches_sub(_SHARED.sub("", pattern), topic)
                ]
            )
        for handler in handlers:
            handler(topic, payload, properties)


class _Client(mqtt.Client):
    """paho's client, reading through an `Intake`.

    `_create_socket` is not part of paho's public interface, which has nothing for this; paho uses
    it to the same end for WebSockets. A version without it would never call this one, and get
    every message itself.
    """

    def __init__(self, client_id: str, find_inbox: Callable[[str], Inbox | None]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._find_inbox = find_inbox

    def _create_socket(self) -> Any:
        return Intake(super()._create_socket(), self._find_inbox)  # type: ignore[arg-type]


def _tls_context(broker: BrokerUrl, files: TlsFiles | None) -> TlsContext | None:
    """Returns what makes encrypted connections, or None for a broker without TLS."""
    if not broker.tls:
        return None
    if files is None:
        raise IdentityError(f"{broker} wants TLS, and there is no certificate to show to it")
    return TlsContext(files)


def _qos(handler: Handler) -> int:
    # What an inbox misses is asked for again; an acknowledgement for each chunk costs a third.
    return 0 if isinstance(handler, Inbox) else 1


def _is_worth_telling(record: logging.LogRecord) -> bool:
    # What paho calls errors are lost connections, which it mends and `_disconnected` tells of.
    # What a callback of this module raised is a fault in it.
    return record.levelno == logging.DEBUG or str(record.msg).startswith("Caught exception")


_paho_log = logging.getLogger(f"{__name__}.paho")
_paho_log.addFilter(_is_worth_telling)


def _set_nodelay(_client: mqtt.Client, _data: object, connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _connect_properties() -> Properties:
    """Returns what this side tells the broker of itself, at every connection."""
    # As in `_publish_properties`.
    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties  # type: ignore[no-any-return]


def _publish_properties(
    pairs: dict[str, str] | None, response_topic: str | None, correlation: bytes | None
) -> Properties | None:
    """Returns paho's form of the MQTT 5 properties of a PUBLISH, or None for none."""
    given = {
        "UserProperty": list(pairs.items()) if pairs else None,
        "ResponseTopic": response_topic,
        "CorrelationData": correlation,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return None
    # paho checks property names at run time in __setattr__ and declares none of them.
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in given.items():
        setattr(properties, name, value)
    return properties  # type: ignore[no-any-return]


def _received_properties(properties: Properties | None) -> dict[str, str]:
    """Returns the user properties and, under names of their own, those that ask for an answer."""
    pairs: Any = getattr(properties, "UserProperty", [])
    found = {name: value for name, value in pairs if name not in (RESPONSE_TOPIC, CORRELATION)}
    response_topic = getattr(properties, "ResponseTopic", None)
    if response_topic is not None:
        found[RESPONSE_TOPIC] = response_topic
    correlation = getattr(properties, "CorrelationData", None)
    if correlation is not None:
        found[CORRELATION] = correlation.hex()
    return found
