"""Who may do what at the broker: Mosquitto's access lists and password file, as text.

mosquitto.conf(5) has the formats. Two listeners, each with a list of its own: devices and hosts
with certificates at one, devices that have only a token at the other. `%u` is the name in the
client's certificate, or the token's id. Mosquitto refuses names with `+`, `#` and `/` in them.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable

from trimtab_agent.contract.enrolment import HOST_NAME
from trimtab_agent.contract.topics import PREFIX

DEVICE_READS = ("assignment", "ack", "block", "command", "certificate")
DEVICE_WRITES = ("status", "progress", "report", "want", "reply", "renew")
SHARED_READS = ("blob/#", "doc/#", "root-version", "group/+/chunk")

_ROUNDS = 101
"""Of PBKDF2, Mosquitto's default: the secrets are random, so that guessing is hopeless anyway."""
_SALT_BYTES = 12


def certificate_access() -> str:
    """Returns the access list of clients with certificates."""
    lines = [
        f"user {HOST_NAME}",
        f"topic readwrite {PREFIX}/#",
        "",
        "# Every other client is a device. What has no line here is refused.",
        *(f"pattern read {PREFIX}/{topic}" for topic in SHARED_READS),
        *(f"pattern read {PREFIX}/device/%u/{topic}" for topic in DEVICE_READS),
        *(f"pattern write {PREFIX}/device/%u/{topic}" for topic in DEVICE_WRITES),
    ]
    return "\n".join([*lines, ""])


def token_access() -> str:
    """Returns the access list of clients with a token."""
    return f"pattern write {PREFIX}/enroll/%u/request\npattern read {PREFIX}/enroll/%u/answer\n"


def password_file(users: Iterable[tuple[str, str]]) -> str:
    """Returns a password file of user names and hashed passwords."""
    return "".join(f"{name}:{hashed}\n" for name, hashed in users)


def hash_password(password: str) -> str:
    """Returns a password in Mosquitto's form `$7$`: PBKDF2 with HMAC-SHA512, 64 bytes."""
    salt = secrets.token_bytes(_SALT_BYTES)
    hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    parts = "7", str(_ROUNDS), base64.b64encode(salt).decode(), base64.b64encode(hashed).decode()
    return "".join(f"${part}" for part in parts)
