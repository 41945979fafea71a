"""The MQTT topic of everything that is published. docs/formats/messages.md is the prose form.

    trimtab/v1/blob/<sha256>               retained   one chunk, as on the wire
    trimtab/v1/doc/<name>/<part>           retained   TUF metadata and manifests, cut in parts
    trimtab/v1/root-version                retained   hint: newest root version (ASCII digits)
    trimtab/v1/device/<id>/assignment      retained   what the device should run, signed
    trimtab/v1/device/<id>/status          retained   online or offline (last will), inventory
    trimtab/v1/device/<id>/progress                   steps of an update, as they happen
    trimtab/v1/device/<id>/report                     the outcome of an update
    trimtab/v1/device/<id>/ack                        host to device: reports that are safe
    trimtab/v1/device/<id>/want                       device to host: chunks that did not come
    trimtab/v1/device/<id>/block                      host to device: one of those chunks
    trimtab/v1/device/<id>/command                    host to device: do something now, signed
    trimtab/v1/device/<id>/reply                      device to host: what came of it
    trimtab/v1/device/<id>/renew                      device to host: a request for a certificate
    trimtab/v1/device/<id>/certificate                host to device: the certificate
    trimtab/v1/group/<name>/chunk                     chunks that many devices need now
    trimtab/v1/enroll/<token id>/request              a new device's request for a certificate
    trimtab/v1/enroll/<token id>/answer               its certificate, or why not

At most five slashes and under 256 bytes, which is within AWS IoT Core's limits (7 and 256).
"""

from __future__ import annotations

import re

from trimtab_agent.errors import CallerError, FormatError

PREFIX = "trimtab/v1"
ROOT_VERSION = f"{PREFIX}/root-version"
ALL_REPORTS = f"{PREFIX}/device/+/report"
ALL_STATUS = f"{PREFIX}/device/+/status"
ALL_PROGRESS = f"{PREFIX}/device/+/progress"
ALL_WANTS = f"{PREFIX}/device/+/want"
ALL_REPLIES = f"{PREFIX}/device/+/reply"
ALL_RENEWALS = f"{PREFIX}/device/+/renew"
ALL_ENROLMENTS = f"{PREFIX}/enroll/+/request"

_DEVICE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DOCUMENT = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_device_id(device: str) -> str:
    """Returns `device` if it can stand in a topic and a file name.

    Raises:
        CallerError: It is empty, longer than 64 characters, or has other characters than
            letters, digits, `_` and `-`.
    """
    if not _DEVICE.fullmatch(device):
        raise CallerError(
            f"device id {device!r} is not usable: take 1 to 64 letters, digits, '_' or '-'"
        )
    return device


def blob(sha256: str) -> str:
    """Returns the topic of the chunk whose wire bytes have this SHA-256 (lower-case hex)."""
    if not _SHA256.fullmatch(sha256):
        raise FormatError(f"{sha256!r} is not a SHA-256 in lower-case hexadecimal")
    return f"{PREFIX}/blob/{sha256}"


def document(name: str, part: int) -> str:
    """Returns the topic of part `part`, counted from 0, of the document `name`."""
    if not _DOCUMENT.fullmatch(name):
        raise FormatError(f"{name!r} cannot name a document: letters, digits, '.', '_', '-' only")
    return f"{PREFIX}/doc/{name}/{part}"


def assignment(device: str) -> str:
    """Returns the topic where the device learns what it should run."""
    return f"{PREFIX}/device/{check_device_id(device)}/assignment"


def status(device: str) -> str:
    """Returns the topic that says whether the device is online, and what it is."""
    return f"{PREFIX}/device/{check_device_id(device)}/status"


def progress(device: str) -> str:
    """Returns the topic of the steps of an update."""
    return f"{PREFIX}/device/{check_device_id(device)}/progress"


def report(device: str) -> str:
    """Returns the topic of the device's reports."""
    return f"{PREFIX}/device/{check_device_id(device)}/report"


def acknowledgement(device: str) -> str:
    """Returns the topic where the host says which reports it has stored."""
    return f"{PREFIX}/device/{check_device_id(device)}/ack"


def want(device: str) -> str:
    """Returns the topic where the device asks for chunks that did not come."""
    return f"{PREFIX}/device/{check_device_id(device)}/want"


def block(device: str) -> str:
    """Returns the topic where the host answers with a chunk."""
    return f"{PREFIX}/device/{check_device_id(device)}/block"


def command(device: str) -> str:
    """Returns the topic where the host tells the device to do something now."""
    return f"{PREFIX}/device/{check_device_id(device)}/command"


def reply(device: str) -> str:
    """Returns the topic where the device says what came of a command."""
    return f"{PREFIX}/device/{check_device_id(device)}/reply"


def renewal(device: str) -> str:
    """Returns the topic where the device asks for its next certificate."""
    return f"{PREFIX}/device/{check_device_id(device)}/renew"


def certificate(device: str) -> str:
    """Returns the topic where the host answers with the device's next certificate."""
    return f"{PREFIX}/device/{check_device_id(device)}/certificate"


def group_chunk(group: str) -> str:
    """Returns the topic of chunks that many devices need now; a group is named like a device."""
    return f"{PREFIX}/group/{check_device_id(group)}/chunk"


def enrolment_request(token_id: str) -> str:
    """Returns the topic where a new device asks for its certificate."""
    return f"{PREFIX}/enroll/{check_device_id(token_id)}/request"


def enrolment_answer(token_id: str) -> str:
    """Returns the topic where the host answers a new device."""
    return f"{PREFIX}/enroll/{check_device_id(token_id)}/answer"


def device_of(topic: str) -> str:
    """Returns the device id in a `device/<id>/...` topic.

    Raises:
        FormatError: The topic is not of that form, or its id is none that a device can have.
    """
    head, _, tail = topic.removeprefix(f"{PREFIX}/device/").partition("/")
    named = topic.startswith(f"{PREFIX}/device/") and _DEVICE.fullmatch(head)
    if not named or not tail:
        raise FormatError(f"topic {topic!r} does not name a device")
    return head
