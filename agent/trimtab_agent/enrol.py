"""`trimtab-agent enroll`: from a token to a certificate, safe to repeat at any point.

The key is made here and stays here. What could have been left behind by a kill is a key without
its certificate, which the next try uses again, or a complete set, which it puts into place.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from trimtab_agent.broker_url import BrokerUrl, parse_broker_url
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.enrolment import (
    EnrolmentAnswer,
    EnrolmentRequest,
    Token,
    decode_token,
)
from trimtab_agent.durable import sole_user
from trimtab_agent.errors import (
    BrokerError,
    FormatError,
    IdentityError,
    TransferTimeoutError,
    TrustError,
)
from trimtab_agent.identity import BROKER, CA, ROOT, TOKEN, Identity, NextSet
from trimtab_agent.identity_keys import (
    Lifetime,
    accept_certificate,
    pem_of,
    present_lifetime,
    signing_request,
)
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsFiles

TAKEN_UP_S = 1.0
"""Until a broker on this network knows a token that was made just now."""
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0

Exchange = Callable[[EnrolmentRequest], EnrolmentAnswer]
"""Sends a request to the host and returns its answer, or raises NetworkError."""


def enrol(state_dir: Path, device: str, text: str) -> tuple[Token, Lifetime]:
    """Gets this device's certificate; with the token that it has it from already, does nothing.

    Args:
        state_dir: As in the configuration; no agent may run on it.
        device: The id in the configuration.
        text: The token.

    Returns:
        The token, and from when to when the certificate is valid.

    Raises:
        IdentityError: The token is damaged, for another device, used, expired or unknown, or
            the answer is not what it must be.
        CallerError: An agent uses the state directory.
        NetworkError: The broker or the host does not answer; the same command may be repeated.
        TrustError: The root that came is not the one in the token.
        StorageError: The disk refuses.
    """
    token = decode_token(text)
    if token.device != device:
        raise IdentityError(
            f"this token is for the device {token.device!r}; the configuration says {device!r}: "
            f"make a token for this one, or correct the configuration"
        )
    with sole_user(state_dir):
        identity = Identity(state_dir)
        identity.settle()
        if identity.token_id == token.id:  # with another key the host would take it for a thief
            return token, present_lifetime(identity)
        files = identity.next_set("enrolling")
        files.write(CA, pem_of(token.ca))
        lifetime = _obtain(files, token, lambda request: _ask(files, token, request))
        files.settle()
    return token, lifetime


def read_token_file(path: Path) -> str:
    """Returns the text of a token from a file.

    Raises:
        IdentityError: It cannot be read.
    """
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise IdentityError(f"cannot read the token file {path}: {error.strerror}") from error


def _obtain(files: NextSet, token: Token, exchange: Exchange) -> Lifetime:
    """Completes the set: key, root, broker, and the certificate last."""
    answer = exchange(EnrolmentRequest(csr=signing_request(files, token.device)))
    if answer.refusal is not None or answer.certificate is None or answer.root is None:
        raise IdentityError(f"the host refuses this token: {answer.refusal or 'no certificate'}")
    if hashlib.sha256(answer.root).digest() != token.root_sha256:
        raise TrustError(
            "the root metadata that came is not the one that the token names; nothing was kept"
        )
    files.write(ROOT, answer.root)
    files.write(BROKER, f"{token.broker}\n".encode())
    files.write(TOKEN, f"{token.id}\n".encode())
    return accept_certificate(files, answer.certificate, pem_of(token.ca), token.device)


def _connect(link: Link, url: BrokerUrl, token: Token) -> None:
    """Connects with the token; once more after a moment, since a new one takes effect then.

    Mosquitto reads its password file again at some time after the signal for it.
    """
    for wait_s in (TAKEN_UP_S, None):
        try:
            link.connect(CONNECT_TIMEOUT_S)
        except BrokerError as error:
            if "Not authorized" not in str(error) and "Bad user name" not in str(error):
                raise
            if wait_s is None:
                raise IdentityError(f"{url} does not know this token: {_aged(token)}") from error
            time.sleep(wait_s)
        else:
            return


def _ask(files: NextSet, token: Token, request: EnrolmentRequest) -> EnrolmentAnswer:
    """Sends the request over the enrolment listener and waits for the answer."""
    answers: queue.Queue[bytes] = queue.Queue()
    url = parse_broker_url(token.enrolment)
    tls, login = TlsFiles(ca=files.path_of(CA)), (token.id, token.secret)
    with Link(url, f"trimtab-enrol-{token.id}", tls=tls, login=login) as link:
        link.subscribe(topics.enrolment_answer(token.id), lambda _, body, __: answers.put(body))
        _connect(link, url, token)
        link.publish(topics.enrolment_request(token.id), codec.encode(request), wait_s=10)
        try:
            body = answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise TransferTimeoutError(
                f"the broker at {url} is there, but the host did not answer within "
                f"{ANSWER_TIMEOUT_S:g} s: does `trimtab serve` run? Repeat this command then"
            ) from None
    try:
        return codec.decode(body, EnrolmentAnswer, what="the host's answer")
    except FormatError as error:
        raise IdentityError(f"{error}; is the agent older than the host?") from error


def _aged(token: Token) -> str:
    """Says why a broker may not know a token; its expiry is judged by this clock as a hint."""
    try:
        expired = datetime.fromisoformat(token.expires) < datetime.now(timezone.utc)
    except ValueError:
        expired = False
    why = f"it expired at {token.expires}" if expired else "it was withdrawn, or never made there"
    return f"{why}; make a new one on the host with: trimtab enroll {token.device}"
