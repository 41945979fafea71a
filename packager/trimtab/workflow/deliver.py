"""A package brought to a device, and the device's report brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.broadcast import (
    broadcast,
    needed_chunks,
    running_manifests,
    wait_until_fetching,
)
from trimtab.fleet.commands import Console
from trimtab.fleet.devices import Devices
from trimtab.fleet.ingest import Ingest
from trimtab.fleet.library import adopt
from trimtab.fleet.publish import PublishResult, Terms, assign, publish_package
from trimtab.fleet.reports import ReportStore
from trimtab.fleet.shelf import Shelf
from trimtab.package.read import Package
from trimtab.workflow.identity import open_link
from trimtab.workflow.release import released_manifests
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract.commands import Action, CommandReply
from trimtab_agent.contract.messages import Assignment, Report, Status
from trimtab_agent.link import Link, parse_broker_url

CONNECT_TIMEOUT_S = 10.0
ONLINE_TIMEOUT_S = 30.0


class Delivery:
    """An open connection to a broker, on behalf of a workspace.

    Args:
        link: The connection.
        workspace: Whose keys sign and whose database stores.
        store: The reports.
        shelf: What is on the broker.
    """

    def __init__(self, link: Link, workspace: Workspace, store: ReportStore, shelf: Shelf) -> None:
        self._link = link
        self._workspace = workspace
        self._repository = workspace.repository()
        self._shelf = shelf
        self._devices = Devices(link)
        self._ingest = Ingest(link, store)

    def publish(
        self, package: Package, on_progress: Callable[[int, int], None] | None = None
    ) -> PublishResult:
        """Publishes a package, less what this connection has published before.

        One from elsewhere is copied into the workspace, from where it can be served later.

        Raises:
            PackageError: The package has changed, or does not fit the broker.
            NetworkError: The broker refuses or does not answer.
        """
        return publish_package(
            self._link,
            self._repository,
            adopt(self._workspace.packages, package),
            shelf=self._shelf,
            on_progress=on_progress,
        )

    def assign(
        self, device: str, target: str, trial: str | None = None, terms: Terms | None = None
    ) -> Assignment:
        """Tells a device what it should run, and on what terms.

        Raises:
            CallerError: The device id cannot be used, or the package is not released.
            NetworkError: The broker refuses or does not answer.
        """
        return assign(
            self._link,
            self._repository,
            device,
            target,
            shelf=self._shelf,
            trial=trial,
            terms=terms,
        )

    def broadcast(
        self, package: Package, assignments: Sequence[Assignment], group: str, bytes_per_s: float
    ) -> int:
        """Sends the package's chunks to all devices of a group at once, when they fetch.

        Returns:
            The bytes that were sent: none if no device says in time that it fetches.

        Raises:
            PackageError: The package has changed.
            NetworkError: The broker refuses or does not answer.
        """
        devices = wait_until_fetching(self._ingest, assignments)
        if not devices:
            return 0
        active = {name: status.active for name, status in self._devices.statuses().items()}
        manifests = released_manifests(self._workspace, filter(None, active.values()))
        running = running_manifests(devices, active, manifests)
        wanted = {chunk.sha256 for chunk in needed_chunks(package.manifest, running)}
        return broadcast(self._link, package, group, wanted, bytes_per_s=bytes_per_s)

    def wait_until_online(self, device: str, timeout_s: float = ONLINE_TIMEOUT_S) -> Status:
        """Returns the device's status once it is there.

        Raises:
            DeviceTimeoutError: It does not come.
        """
        return self._devices.wait_for_device(device, timeout_s)

    def wait_for_report(self, assignment: Assignment, timeout_s: float) -> Report:
        """Returns the device's report on an assignment.

        Raises:
            DeviceTimeoutError: It does not come; the message says how far the device got.
        """
        device = assignment.device
        try:
            return self._ingest.wait_for_report(device, assignment.counter, timeout_s)
        except DeviceTimeoutError as error:
            status = self._devices.statuses().get(device)
            if status is None or (status.online and not status.paused):
                raise
            why = (
                f"it is paused: let it go on with `trimtab device resume {device}`"
                if status.online
                else "it is offline now, and finds the assignment when it is back"
            )
            raise DeviceTimeoutError(f"{error}; {why}") from error

    def statuses(self) -> dict[str, Status]:
        """Returns the last status of every device that was heard of, by device id."""
        return self._devices.statuses()

    def tell(
        self, device: str, action: Action, *, lines: int | None = None, timeout_s: float
    ) -> CommandReply:
        """Has a device do something now; see `trimtab.fleet.commands.Console.tell`."""
        console = Console(self._link, self._repository)
        return console.tell(device, action, lines=lines, timeout_s=timeout_s)


@contextmanager
def open_delivery(workspace: Workspace, broker: str) -> Iterator[Delivery]:
    """Connects to a broker.

    Raises:
        CallerError: The broker's address is malformed, or the host's certificate unusable.
        BrokerError: The broker is not there, or refuses.
        StorageError: The reports' database cannot be opened.
    """
    store = ReportStore(workspace.database_url)
    shelf = Shelf(workspace.database_url)
    link = open_link(workspace, parse_broker_url(broker))
    try:
        with link:
            link.connect(CONNECT_TIMEOUT_S)
            yield Delivery(link, workspace, store, shelf)
    finally:
        shelf.close()
        store.close()
