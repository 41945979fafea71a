"""The process that renews: `python -m trimtab_agent.identity_child`, started by `renewal`.

It alone loads cryptography and touches the device's private key; the agent sees requests and
certificates only.
"""

from __future__ import annotations

import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

from trimtab_agent.contract import codec
from trimtab_agent.helper_child import serve
from trimtab_agent.identity import Identity
from trimtab_agent.identity_keys import (
    accept_certificate,
    present_ca,
    present_lifetime,
    signing_request,
)
from trimtab_agent.renewal import Question, Reply


def answer(_connection: socket.socket, body: bytes) -> bytes:
    """Answers one question.

    Raises:
        IdentityError: The present identity is damaged, or the certificate is not acceptable.
        StorageError: The disk refuses.
    """
    question = codec.decode(body, Question, what="the question")
    identity = Identity(Path(question.state_dir))
    reply = (
        _request(identity, question)
        if question.certificate is None
        else _accept(identity, question.device, question.certificate)
    )
    return codec.encode(reply)


def _request(identity: Identity, question: Question) -> Reply:
    """Makes a request for the next certificate if it is time."""
    identity.settle()
    lifetime = present_lifetime(identity)
    now = datetime.fromtimestamp(question.now_s, timezone.utc)
    usable = lifetime.begins <= now < lifetime.ends
    csr = None
    if usable and lifetime.is_due(now):
        csr = signing_request(identity.next_set("renewing"), question.device)
    return Reply(begins_s=lifetime.begins.timestamp(), ends_s=lifetime.ends.timestamp(), csr=csr)


def _accept(identity: Identity, device: str, certificate: str) -> Reply:
    """Puts the next certificate and its key into place."""
    files = identity.next_set("renewing")
    lifetime = accept_certificate(files, certificate, present_ca(identity), device)
    files.settle()
    return Reply(begins_s=lifetime.begins.timestamp(), ends_s=lifetime.ends.timestamp())


if __name__ == "__main__":
    sys.exit(serve(answer))
