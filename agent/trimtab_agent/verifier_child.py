"""The process that verifies: `python -m trimtab_agent.verifier_child`, started by `verifier`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from trimtab_agent import frames
from trimtab_agent.contract import codec
from trimtab_agent.errors import DocumentMissingError, HelperProcessError
from trimtab_agent.helper_child import serve
from trimtab_agent.trust import TrustStore
from trimtab_agent.verifier import Question, TargetQuestion


class ParentDocuments:
    """Documents that the agent reads for this process (`sources.Documents`).

    Args:
        connection: To the agent.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, name: str) -> Iterator[bytes]:
        """Yields a document piece by piece.

        Raises:
            DocumentMissingError: There is none.
            HelperProcessError: The agent answered what is no answer to that.
            EOFError: The agent is gone.
        """
        frames.send(self._connection, frames.READ, name.encode())
        while True:
            kind, body = frames.receive(self._connection)
            if kind == frames.END:
                return
            if kind == frames.MISSING:
                raise DocumentMissingError(body.decode())
            if kind != frames.PIECE:
                raise HelperProcessError(f"the agent answered a read with a frame {kind!r}")
            yield body
            frames.send(self._connection, frames.MORE)


def answer(connection: socket.socket, data: bytes) -> bytes:
    """Answers a question.

    Raises:
        TrimtabError: What is wrong with the metadata, the message or the disk.
    """
    question: Question = codec.decode(data, Question, what="the question")  # type: ignore[arg-type]
    store = TrustStore(Path(question.metadata_dir), question.root)
    documents = ParentDocuments(connection)
    if isinstance(question, TargetQuestion):
        return store.target(documents, question.name)
    return store.payload(
        documents,
        question.message,
        what=question.what,
        context=question.context,
        device=question.device,
        now=question.now,
    )


if __name__ == "__main__":
    sys.exit(serve(answer))
