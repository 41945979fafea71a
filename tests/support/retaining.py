"""A broker in one process that retains, with the methods of a link to it."""

from __future__ import annotations

import paho.mqtt.client as mqtt

from trimtab_agent.errors import BrokerError


class RetainingLink:
    """A connection and the broker behind it; messages come back on the caller's thread.

    `fail_after` publishes, the connection breaks; `before_publish` is called with each topic.
    """

    max_payload_bytes = None

    def __init__(self) -> None:
        self.retained: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.handlers = {}
        self.sent: list[str] = []
        self.asked: list[str] = []
        self.connected = True
        self.calls = []
        self.fail_after: int | None = None
        self.before_publish = lambda topic: None

    def when_connected(self, call) -> None:
        self.calls.append(call)

    def subscribe(self, topic, handler) -> None:
        self.subscribe_many([topic], handler)

    def subscribe_many(self, topics, handler) -> None:
        for topic in topics:
            self.handlers[topic] = handler
            self.asked.append(topic)
            for name, (payload, properties) in list(self.retained.items()):
                if mqtt.topic_matches_sub(topic, name):
                    handler(name, payload, properties)

    def unsubscribe(self, *topics) -> None:
        for topic in topics:
            self.handlers.pop(topic, None)

    def publish(self, topic, payload, *, retain=False, wait_s=None, properties=None, **_) -> None:
        self.before_publish(topic)
        if self.fail_after is not None and len(self.sent) >= self.fail_after:
            raise BrokerError(f"{topic}: not sent, there is no connection")
        self.sent.append(topic)
        if retain:
            self.retained[topic] = (payload, properties or {})
            if not payload:
                del self.retained[topic]
        for pattern, handler in list(self.handlers.items()):
            if mqtt.topic_matches_sub(pattern, topic):
                handler(topic, payload, properties or {})
