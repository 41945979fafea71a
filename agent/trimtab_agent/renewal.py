"""The next certificate, in time: looked at when the agent starts and once a day.

From two thirds of a certificate's life on, the host is asked for the next one, with a new key,
over the connection that the present one opens. Key and certificate are made and checked in a
short-lived process; here only messages pass. A device that was off for longer than the last third
comes back with a new token.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType
from typing import Protocol

import msgspec

from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.enrolment import EnrolmentAnswer, EnrolmentRequest
from trimtab_agent.errors import TransferTimeoutError, TrimtabError
from trimtab_agent.frames import QUESTION
from trimtab_agent.helper_process import Helper
from trimtab_agent.identity import Identity
from trimtab_agent.window import Handler

_log = logging.getLogger(__name__)

DAY_S = 86_400.0
RETRY_S = 3600.0
"""After a try without an answer: months are left."""
ANSWER_TIMEOUT_S = 60.0
_WORST_CLOCK_S = 946_684_800.0  # 2000-01-01, long before any certificate of Trimtab


class Connection(Protocol):
    """What a renewal needs of `trimtab_agent.link.Link`."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""

    def when_connected(self, call: Callable[[], None]) -> None:
        """Has `call` run after every connection."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Subscribes, now and after each reconnect."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes or raises `NetworkError`."""

    def renew_tls(self) -> None:
        """Connects anew with the files that are there now."""


class Question(msgspec.Struct, kw_only=True, frozen=True):
    """What the child is asked: for a request or, with a certificate, to put it into place.

    Attributes:
        state_dir: The agent's, absolute.
        device: The device's id.
        now_s: Seconds since 1970.
        certificate: The next one, as PEM.
    """

    state_dir: str
    device: str
    now_s: float
    certificate: str | None = None


class Reply(msgspec.Struct, kw_only=True, frozen=True):
    """What the child answers.

    Attributes:
        begins_s: From when the certificate in place is valid, seconds since 1970.
        ends_s: Until when.
        csr: A request for the next one, as PEM; None while it is not time, or too late.
    """

    begins_s: float
    ends_s: float
    csr: str | None = None


def ask_child(question: Question) -> Reply:
    """Has a child process answer.

    Raises:
        TrimtabError: What the child met, or that it died.
    """
    with Helper("trimtab_agent.identity_child", what="the process that renews") as child:
        child.send(QUESTION, codec.encode(question))
        return codec.decode(child.receive().body, Reply, what="its answer")


class Renewal:
    """Renews in a thread of its own for the length of a `with` block.

    Args:
        link: The connection.
        identity: The device's identity.
        device: The device's id.
        ask: Asks the child; replaced in tests.
        now_s: The clock, seconds since 1970.
        answer_timeout_s: Longest wait for the host.
    """

    def __init__(
        self,
        link: Connection,
        identity: Identity,
        device: str,
        *,
        ask: Callable[[Question], Reply] = ask_child,
        now_s: Callable[[], float] = time.time,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._link = link
        self._state_dir = str(identity.path.parent.resolve())
        self._device = device
        self._ask = ask
        self._now_s = now_s
        self._answer_timeout_s = answer_timeout_s
        self._answers: queue.Queue[bytes] = queue.Queue(maxsize=4)
        self._stopping = False
        self._overdue = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-renewal", daemon=True)

    def __enter__(self) -> Renewal:
        self._link.subscribe(topics.certificate(self._device), self._on_certificate)
        self._link.when_connected(self._on_connected)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._overdue, delay_s = False, self.look()
            except TrimtabError as error:
                self._overdue, delay_s = True, RETRY_S
                _log.warning("the certificate was not renewed: %s", error)
            self._wake.wait(delay_s)

    def _on_connected(self) -> None:
        """Tries again at once what failed for want of a connection."""
        if self._overdue:
            self._wake.set()

    def look(self) -> float:
        """Renews if it is time. Returns after how many seconds to look again.

        Raises:
            NetworkError: There is no connection, or the host does not answer.
            IdentityError: The host refuses, or sent what cannot be accepted.
            TrimtabError: What else the child met.
        """
        reply = self._ask(self._question())
        trouble = describe_trouble(reply, self._now_s())
        if trouble:
            _log.error("%s", trouble)
        if reply.csr is None:
            return DAY_S
        certificate = self._request(reply.csr)
        if certificate is None:
            return RETRY_S
        renewed = self._ask(self._question(certificate))
        _log.info("the certificate was renewed; valid until %s", _date(renewed.ends_s))
        self._link.renew_tls()
        return DAY_S

    def _request(self, csr: str) -> str | None:
        """Sends a request and returns the certificate, or None when the host refuses."""
        while not self._answers.empty():  # of an earlier request that was answered too late
            self._answers.get_nowait()
        request = codec.encode(EnrolmentRequest(csr=csr))
        self._link.publish(topics.renewal(self._device), request)
        try:
            body = self._answers.get(timeout=self._answer_timeout_s)
        except queue.Empty:
            raise TransferTimeoutError(
                f"the host did not answer within {self._answer_timeout_s:g} s: does `trimtab "
                f"serve` run?"
            ) from None
        answer = codec.decode(body, EnrolmentAnswer, what="the host's answer")
        if answer.certificate is None:
            _log.error("the host refuses to renew the certificate: %s", answer.refusal)
        return answer.certificate

    def _question(self, certificate: str | None = None) -> Question:
        return Question(
            state_dir=self._state_dir,
            device=self._device,
            now_s=self._now_s(),
            certificate=certificate,
        )

    def _on_certificate(self, _topic: str, body: bytes, _properties: dict[str, str]) -> None:
        try:
            self._answers.put_nowait(body)
        except queue.Full:
            _log.warning("a certificate that nobody asked for was dropped")


def describe_trouble(reply: Reply, now_s: float) -> str | None:
    """Says what is wrong with the certificate in place at a time, or None."""
    if now_s < max(reply.begins_s, _WORST_CLOCK_S):
        return (
            f"this device's clock says {_date(now_s)}, before its certificate was made "
            f"({_date(reply.begins_s)}): set the clock (is NTP running?); until then TLS fails"
        )
    if now_s >= reply.ends_s:
        return (
            f"this device's certificate has expired at {_date(reply.ends_s)}; this clock says "
            f"{_date(now_s)}. If the clock is right, get a new token on the host (trimtab enroll) "
            f"and run: trimtab-agent enroll --token TOKEN --config FILE"
        )
    return None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="minutes")
