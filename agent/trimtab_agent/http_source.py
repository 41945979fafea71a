"""A static HTTP server as a source: a cache in the plant.

Nothing that the server says is believed beyond the status line: sizes are bounded while reading,
time by `patient_socket`, and redirects are not followed, since they would lead a device out of
the plant. HTTP proxies of the environment are not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from trimtab_agent.contract import layout
from trimtab_agent.contract.manifest import Chunk
from trimtab_agent.errors import (
    CallerError,
    DocumentMissingError,
    FormatError,
    NetworkError,
    TransferTimeoutError,
)
from trimtab_agent.patient_socket import PatientSocket, StopReading

# http.client takes 3 MB with it: imported when something is fetched.
if TYPE_CHECKING:
    import http.client
    import socket

_PIECE_BYTES = 64 * 1024
_OK, _NOT_FOUND = 200, 404


class HttpSource:
    """Documents, chunks and assignments below a URL (`sources.Documents`, `sources.Chunks`).

    One connection, kept open between requests. For one thread.

    Args:
        url: `http://HOST[:PORT][/PATH]` or `https://...`.
        timeout_s: Longest silence of the server.
        ca_file: For https, certificates to trust in place of the system's.

    Raises:
        CallerError: The URL cannot be used.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, ca_file: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._secure, self._host, self._port, self._prefix = _split(url)
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._open: tuple[http.client.HTTPConnection, PatientSocket] | None = None

    def __str__(self) -> str:
        return self._url

    def close(self) -> None:
        """Closes the connection; the next request makes another."""
        if self._open:
            self._open[0].close()
            self._open = None

    def read(self, name: str) -> Iterator[bytes]:
        """See `sources.Documents`. At most `layout.MAX_DOCUMENT_BYTES` are read."""
        yield from self._pieces(layout.document(name), layout.MAX_DOCUMENT_BYTES)

    def fetch(
        self, chunks: Iterable[Chunk], *, stop: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, bytes]]:
        """See `sources.Chunks`. An answer that is too long is not read to its end."""
        missing: list[Chunk] = []
        for chunk in chunks:
            if stop():
                return
            try:
                wire = b"".join(self._pieces(layout.blob(chunk.sha256), chunk.wire_bytes, stop))
            except StopReading:
                return
            except (DocumentMissingError, FormatError):
                missing.append(chunk)
            else:
                yield chunk, wire
        if missing:
            raise NetworkError(
                f"{self} lacks {len(missing)} of the chunks, the first is {missing[0].sha256[:12]}"
            )

    def assignment(self, device: str) -> bytes | None:
        """Returns the signed assignment for `device`, or None where there is none.

        Raises:
            CallerError: The device id cannot be used.
            FormatError: What lies there is no assignment.
            NetworkError: The server cannot be reached, or refuses.
        """
        try:
            return b"".join(self._pieces(layout.assignment(device), layout.MAX_ASSIGNMENT_BYTES))
        except DocumentMissingError:
            return None

    def _pieces(
        self, path: str, limit_bytes: int, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[bytes]:
        """Yields the body of a file that must not be longer than `limit_bytes`."""
        with self._errors(path):
            response = self._get(path, stop)
            self._check_status(response, path)
            left_bytes = limit_bytes
            # One byte too many shows that there are too many.
            while piece := response.read1(min(_PIECE_BYTES, left_bytes + 1)):
                left_bytes -= len(piece)
                if left_bytes < 0:
                    raise FormatError(f"{self}/{path} is longer than {limit_bytes} bytes")
                yield piece
            if response.length:
                raise NetworkError(f"{self}/{path} ended {response.length} bytes early")
            response.close()  # which leaves the connection open for the next request

    def _get(self, path: str, stop: Callable[[], bool]) -> http.client.HTTPResponse:
        """Sends a request; once more if the server had closed the kept connection meanwhile."""
        if self._open and self._open[0].sock is None:  # the answer before said "close"
            self.close()
        kept = self._open is not None
        try:
            return self._request(path, stop)
        except ConnectionError:  # http.client's RemoteDisconnected is one
            self.close()
            if not kept:
                raise
        return self._request(path, stop)

    def _request(self, path: str, stop: Callable[[], bool]) -> http.client.HTTPResponse:
        connection, patient = self._open or self._connect()
        patient.start(stop)
        connection.request("GET", f"{self._prefix}/{path}", headers={"Accept-Encoding": "identity"})
        return connection.getresponse()

    def _connect(self) -> tuple[http.client.HTTPConnection, PatientSocket]:
        import http.client

        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        if self._secure:
            import ssl

            context = ssl.create_default_context(cafile=self._ca_file)
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        connection.connect()
        patient = PatientSocket(connection.sock, self._timeout_s)
        connection.sock = cast("socket.socket", patient)
        self._open = connection, patient
        return self._open

    def _check_status(self, response: http.client.HTTPResponse, path: str) -> None:
        if response.status == _OK:
            return
        self.close()  # the body of an error page is not worth reading
        if response.status == _NOT_FOUND:
            raise DocumentMissingError(f"{self} has no {path}")
        redirect = " (redirects are not followed)" if 300 <= response.status < 400 else ""
        raise NetworkError(f"{self}/{path}: the server answers {response.status}{redirect}")

    @contextlib.contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Closes the connection unless the answer was read to its end, and names the server."""
        import http.client

        done = False
        try:
            yield
            done = True
        except TimeoutError as error:
            raise TransferTimeoutError(f"{self}/{path} did not come: {error}") from error
        except OSError as error:
            raise NetworkError(f"{self} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise NetworkError(f"{self}/{path}: no proper HTTP: {error!r}") from error
        finally:
            if not done:
                self.close()


def _split(url: str) -> tuple[bool, str, int | None, str]:
    """Returns of a URL: whether it is https, the host, the port, the path without '/' at its end.

    Raises:
        CallerError: It is no such URL.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise CallerError(f"{url!r} is no URL: {error}") from error
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    plain = plain and url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in {"http", "https"} or not host or not plain:
        raise CallerError(f"{url!r} is not of the form http://HOST[:PORT][/PATH] or https://...")
    return parts.scheme == "https", host, port, parts.path.rstrip("/")
