"""Verifying in a child process: the agent reads the documents, the child believes them or not.

A child answers one question. It has no connection of its own: what it wants to read it asks the
agent for, piece by piece (`trimtab_agent.frames`), so any source serves, and the child needs
neither the network nor the broker's credentials.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from trimtab_agent import frames
from trimtab_agent.bounded_documents import BoundedDocuments
from trimtab_agent.contract import codec
from trimtab_agent.errors import DocumentMissingError, HelperProcessError
from trimtab_agent.helper_process import SILENCE_S, Helper
from trimtab_agent.sources import Documents

MODULE = "trimtab_agent.verifier_child"
MAX_READS = 512
"""More documents than TUF's client asks for in one run: 256 roots, 32 delegations and a few."""

_PIECE_BYTES = 1 << 20


class TargetQuestion(msgspec.Struct, kw_only=True, frozen=True, tag="target"):
    """Asks for the verified content of a TUF target.

    Attributes:
        metadata_dir: Absolute path of the folder for trusted metadata.
        root: The initial root.
        name: The target's name.
    """

    metadata_dir: str
    root: bytes
    name: str


class PayloadQuestion(msgspec.Struct, kw_only=True, frozen=True, tag="payload"):
    """Asks for the payload of a signed message.

    Attributes:
        metadata_dir: Absolute path of the folder for trusted metadata.
        root: The initial root.
        message: A `Signed` in JSON.
        what: What the messages of errors call it.
        context: What was put before the payload when it was signed.
        device: The device that this is.
        now: The time, with its zone.
    """

    metadata_dir: str
    root: bytes
    message: bytes
    what: str
    context: bytes
    device: str
    now: datetime


Question = TargetQuestion | PayloadQuestion


class Verifier:
    """What this device believes, asked of a child process.

    Args:
        metadata_dir: Where trusted metadata is kept between runs.
        root: The initial root metadata: the one thing that is trusted without proof.
        module: What the child runs; replaced in tests.
        silence_s: Longest time that the child may say nothing.
    """

    def __init__(
        self, metadata_dir: Path, root: bytes, *, module: str = MODULE, silence_s: float = SILENCE_S
    ) -> None:
        self._metadata_dir = str(metadata_dir.absolute())
        self._root = root
        self._module = module
        self._silence_s = silence_s

    def target(self, documents: Documents, name: str) -> bytes:
        """Returns the verified content of a TUF target, such as a package's manifest.

        Args:
            documents: Where from.
            name: The target's name.

        Raises:
            TrustError: Metadata that is not signed, older than what was seen, or expired.
            IntegrityError: A length or a hash that differs from what was signed.
            NetworkError: A document did not come.
            StorageError: Metadata that cannot be written to the disk.
            HelperProcessError: The child died, hung or said rubbish.
        """
        question = TargetQuestion(metadata_dir=self._metadata_dir, root=self._root, name=name)
        return self._ask(documents, question)

    def payload(
        self,
        documents: Documents,
        signed: bytes,
        *,
        what: str,
        context: bytes,
        device: str,
        now: datetime,
    ) -> bytes:
        """Returns the payload of a signed message. Its counter is the caller's to compare.

        Args:
            documents: Where the keys that may sign come from.
            signed: A `Signed` in JSON.
            what: What the messages of errors call it, such as `"the assignment"`.
            context: What was put before the payload when it was signed.
            device: The device that this is.
            now: The time, with its zone.

        Raises:
            FormatError: The message or its payload cannot be read.
            TrustError: It is not signed for this purpose by a listed key, not for this device, or
                expired; and as `target`.
            IntegrityError: As `target`.
            NetworkError: As `target`.
            StorageError: As `target`.
            HelperProcessError: As `target`.
        """
        return self._ask(
            documents,
            PayloadQuestion(
                metadata_dir=self._metadata_dir,
                root=self._root,
                message=signed,
                what=what,
                context=context,
                device=device,
                now=now,
            ),
        )

    def _ask(self, documents: Documents, question: Question) -> bytes:
        """Starts a child, serves it documents, and returns its answer."""
        helper = Helper(self._module, what="the verifier", silence_s=self._silence_s)
        with helper, contextlib.closing(_Desk(BoundedDocuments(documents))) as desk:
            helper.send(frames.QUESTION, codec.encode(question))
            while True:
                frame = helper.receive()
                if frame.kind == frames.ANSWER:
                    return frame.body
                if frame.kind == frames.READ:
                    desk.open(frame.body.decode(errors="replace"))
                elif frame.kind != frames.MORE:
                    raise helper.refuse(frame)
                helper.send(*desk.next())


class _Desk:
    """Where the child reads: one document at a time, as many pieces as it asks for."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._reads = 0
        self._pieces: Iterator[bytes] = iter(())

    def open(self, name: str) -> None:
        """Turns to another document.

        Raises:
            HelperProcessError: The child reads on and on.
        """
        self._reads += 1
        if self._reads > MAX_READS:
            raise HelperProcessError(f"the verifier asked for more than {MAX_READS} documents")
        self.close()
        self._pieces = _cut(self._documents.read(name))

    def next(self) -> tuple[bytes, bytes]:
        """Returns the kind and the body of what comes next of the document."""
        try:
            return frames.PIECE, next(self._pieces)
        except StopIteration:
            return frames.END, b""
        except DocumentMissingError as error:
            return frames.MISSING, str(error).encode()

    def close(self) -> None:
        """Stops reading, so that a source need not wait for the garbage collector to know it."""
        close = getattr(self._pieces, "close", None)
        if close:
            close()


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the same bytes in pieces of a bounded size, none of them empty."""
    for piece in pieces:
        for offset in range(0, len(piece), _PIECE_BYTES):
            yield piece[offset : offset + _PIECE_BYTES]
