"""What a host tells one device, signed and numbered: the release it runs, what it shall do now."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from trimtab.errors import MissingKeyError
from trimtab.package.parts import Parts
from trimtab.package.public_keys import ASSIGNMENT, assignment_key
from trimtab_agent.contract import codec
from trimtab_agent.contract.commands import COMMAND_CONTEXT, Action, Command
from trimtab_agent.contract.messages import ASSIGNMENT_CONTEXT, Assignment, Signature, Signed
from trimtab_agent.contract.topics import check_device_id

ASSIGNMENT_DAYS = 30
"""How long an assignment holds: a device that was off for a month still takes it, and one that
is replayed later to a device whose memory was wiped is refused."""

COMMAND_HOURS = 1
"""How long a command holds: it is for now. A device whose clock is wrong by more refuses it."""


class Orders:
    """Makes and signs assignments and commands with the repository's assignment keys.

    Args:
        parts: The repository's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def new_assignment(self, device: str, target: str, *, trial: str | None = None) -> Assignment:
        """Returns an assignment with the device's next counter.

        Args:
            device: The device it is for.
            target: TUF target name of a released package.
            trial: Copied into the report.

        Raises:
            CallerError: The device id cannot be used, or the package is not released.
            RepositoryError: The counters cannot be kept, or the metadata is broken.
        """
        check_device_id(device)
        self._parts.sha256_of(target)
        now = self._parts.clock()
        return Assignment(
            device=device,
            counter=self._parts.counters.next(device),
            target=target,
            issued=_rfc3339(now),
            expires=_rfc3339(now + timedelta(days=ASSIGNMENT_DAYS)),
            trial=trial,
        )

    def sign_assignment(self, assignment: Assignment) -> bytes:
        """Returns the message for the device: the assignment with a signature over its bytes.

        Raises:
            RepositoryError: The assignment key is missing or broken.
        """
        return self.sign_message(codec.encode(assignment), ASSIGNMENT_CONTEXT)

    def new_command(self, device: str, action: Action, *, lines: int | None = None) -> Command:
        """Returns a command with the device's next counter: the sequence that assignments have.

        Args:
            device: The device it is for.
            action: What it is to do.
            lines: For `logs`: how many; None leaves it at the default.

        Raises:
            CallerError: The device id cannot be used.
            RepositoryError: The counters cannot be kept.
        """
        check_device_id(device)
        now = self._parts.clock()
        command = Command(
            device=device,
            counter=self._parts.counters.next(device),
            action=action,
            issued=_rfc3339(now),
            expires=_rfc3339(now + timedelta(hours=COMMAND_HOURS)),
        )
        return command if lines is None else msgspec.structs.replace(command, lines=lines)

    def sign_command(self, command: Command) -> bytes:
        """Returns the message for the device: the command with a signature over its bytes.

        Raises:
            RepositoryError: The assignment key is missing or broken.
        """
        return self.sign_message(codec.encode(command), COMMAND_CONTEXT)

    def sign_message(self, payload: bytes, context: bytes) -> bytes:
        """Returns a `Signed` message by the assignment keys that are here.

        Args:
            payload: What is signed.
            context: The prefix that says what the signature is for.

        Raises:
            MissingKeyError: No assignment key is here.
            RepositoryError: A key is broken.
        """
        signatures, problems = [], []
        for keyid, raw in self._parts.assignment_keys().items():
            try:
                signed = self._parts.keys.sign(ASSIGNMENT, assignment_key(raw), context + payload)
            except MissingKeyError as error:
                problems.append(str(error))
            else:
                signature = bytes.fromhex(signed.signature)
                signatures.append(Signature(keyid=keyid, signature=signature))
        if not signatures:
            raise MissingKeyError("; ".join(problems))
        return codec.encode(Signed(payload=payload, signatures=tuple(signatures)))


def _rfc3339(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
