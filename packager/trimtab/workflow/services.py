"""What a host does for its devices for as long as it runs.

It takes their reports, gives them the chunks that they ask for, keeps the TUF timestamp fresh, and
mends what the broker retains: at the start, after every reconnection, and from time to time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from trimtab.fleet.audit import Audit, AuditResult
from trimtab.fleet.chunk_server import ChunkServer
from trimtab.fleet.ingest import Ingest
from trimtab.fleet.library import Library
from trimtab.fleet.publish import publish_metadata
from trimtab.fleet.reports import ReportStore
from trimtab.fleet.shelf import Shelf
from trimtab.workflow.workspace import Workspace
from trimtab_agent.errors import NetworkError, TrimtabError
from trimtab_agent.link import Link

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 600.0
"""How often the timestamp is looked at, and what was found wrong or could not be mended."""

FULL_AUDIT_EVERY_S = 6 * 3600.0
"""How often every chunk is looked at, though the connection held: somebody may have put other
bytes in its place."""

RETRY_S = 5.0
"""Wait after a service failed because the broker went."""


@contextlib.contextmanager
def host_services(link: Link, workspace: Workspace) -> Iterator[None]:
    """Serves the devices of a workspace until the block ends.

    What fails meanwhile is logged and tried again: neither a broker that goes nor a package that
    is damaged ends the other services.

    Args:
        link: The connection; it may be made later, and break.
        workspace: Whose packages, reports and keys.

    Raises:
        StorageError: The database cannot be opened.
        RepositoryError: The repository is broken.
    """
    workspace.repository()  # broken from the start: say so at once
    stop = threading.Event()
    with _databases(workspace) as (store, shelf):
        Ingest(link, store)
        library = Library(workspace.packages)
        audit = Audit(link, workspace.repository, workspace.packages, library, shelf, stop=stop)
        upkeep = _Upkeep(link, workspace, shelf, audit, stop)
        thread = threading.Thread(target=upkeep.run, name="trimtab-upkeep", daemon=True)
        with ChunkServer(link, library, share=shelf.share):
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()


class _Upkeep:
    """The services that take turns on one thread: the timestamp and the audit."""

    def __init__(
        self, link: Link, workspace: Workspace, shelf: Shelf, audit: Audit, stop: threading.Event
    ) -> None:
        self._link = link
        self._workspace = workspace
        self._shelf = shelf
        self._audit = audit
        self._stop = stop
        self._due = threading.Event()
        self._full_at = time.monotonic() + FULL_AUDIT_EVERY_S

    def run(self) -> None:
        """Works at once, after each connection and every `LOOK_EVERY_S`."""
        self._link.when_connected(self._due.set)
        wait_s = 0.0 if self._link.connected else LOOK_EVERY_S
        while self._wait(wait_s):
            wait_s = LOOK_EVERY_S
            try:
                self._work()
            except NetworkError as error:
                _log.warning("%s; trying again", error)
                wait_s = RETRY_S
            except TrimtabError as error:
                _log.error("the broker's content is not kept up: %s", error)

    def _wait(self, seconds: float) -> bool:
        """Waits until there is work; says False once all is over."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and not self._due.is_set():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            self._stop.wait(min(left_s, 0.2))
        self._due.clear()
        return not self._stop.is_set()

    def _work(self) -> None:
        if not self._link.connected:
            return
        repository = self._workspace.repository()
        if repository.needs_refresh:
            publish_metadata(self._link, repository, shelf=self._shelf)
        if time.monotonic() >= self._full_at:
            self._audit.forget()
            self._full_at = time.monotonic() + FULL_AUDIT_EVERY_S
        _tell(self._audit.run())


def _tell(result: AuditResult) -> None:
    changed = result.restored or result.cleared or result.lost
    _log.log(
        logging.WARNING if changed else logging.INFO,
        "looked at %d retained messages: %d published again, %d cleared, %d lost",
        result.looked,
        result.restored,
        result.cleared,
        result.lost,
    )


@contextlib.contextmanager
def _databases(workspace: Workspace) -> Iterator[tuple[ReportStore, Shelf]]:
    store = ReportStore(workspace.database_url)
    shelf = Shelf(workspace.database_url)
    try:
        yield store, shelf
    finally:
        shelf.close()
        store.close()
