"""The agent's life: connect, wait for something to happen, act on it.

Handlers of the connection only put events into a mailbox. Everything that takes time or touches the
disk happens here, on the caller's thread, one thing after the other.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from trimtab_agent.backoff import full_jitter_s
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import Acknowledgement, Inventory, Progress, Report, Status
from trimtab_agent.errors import (
    BrokerError,
    DamagedError,
    NetworkError,
    PackageError,
    StorageError,
    TrimtabError,
)
from trimtab_agent.mailbox import (
    Acknowledged,
    Assigned,
    Commanded,
    Connected,
    Event,
    Mailbox,
)
from trimtab_agent.outbox import Outbox
from trimtab_agent.systemd import Service
from trimtab_agent.updater import Step, Updater
from trimtab_agent.window import Handler

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 10.0
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 60.0
ONCE_TRIES = 3
"""With `once`: errors that may pass, until the run is given up."""
LONGEST_STEP_S = 2 * 3600.0
"""A step that takes longer hangs: measuring has its own, shorter limits, and a transfer says every
second that it is alive."""
LONGEST_SILENCE_S = 60.0
"""Longest wait without a sign of life."""
FAREWELL_S = 30.0
"""Longest wait, with `once`, for the host to acknowledge the report."""


class Connection(Protocol):
    """What the agent needs of `trimtab_agent.link.Link`."""

    def connect(self, timeout_s: float) -> None:
        """Connects or raises `BrokerError`."""

    def when_connected(self, call: Callable[[], None]) -> None:
        """Has `call` run after every connection."""

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Subscribes, now and after each reconnect."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: int = 1,
        wait_s: float | None = None,
    ) -> None:
        """Publishes or raises `BrokerError`."""


class Commands(Protocol):
    """What does what the host asks for now; `trimtab_agent.commands.Commands` is one."""

    @property
    def listening(self) -> bool:
        """Whether a message would be looked at, and not dropped unread."""

    def handle(self, signed: bytes) -> bytes | None:
        """Does what a message says, and returns the reply, or None if there shall be none."""


def status_message(
    device: str, active: str | None, inventory: Inventory | None, *, paused: bool = False
) -> bytes:
    """Returns the status of a device that is there; without an inventory, of one that is not."""
    return codec.encode(
        Status(
            device=device,
            online=inventory is not None,
            active=active,
            inventory=inventory,
            paused=paused,
        )
    )


class Agent:
    """One device's agent.

    Args:
        device: The device's id.
        link: The connection, not connected yet.
        updater: Does the updates.
        commands: Does what the host asks for now.
        outbox: Sends the reports.
        inventory: What the device is.
        active: Tells the TUF target name of the active package, or None.
        service: Told that the agent is ready, and that it is alive.
        show: Told of every report and every refusal.
        clock: Seconds from any start, never backwards.
    """

    def __init__(
        self,
        *,
        device: str,
        link: Connection,
        updater: Updater,
        commands: Commands,
        outbox: Outbox,
        inventory: Inventory,
        active: Callable[[], str | None],
        service: Service,
        show: Callable[[Report | TrimtabError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._link = link
        self._updater = updater
        self._commands = commands
        self._outbox = outbox
        self._inventory = inventory
        self._active = active
        self._service = service
        self._show = show
        self._clock = clock
        self._mailbox = Mailbox()
        self._status = b""
        self._errors = 0
        self._connect_due_s: float | None = self._clock()
        self._connect_failures = 0

    def run(self, *, once: bool) -> Report | None:
        """Runs until it is interrupted, or with `once` until one update has ended.

        Args:
            once: End after the first update. A broker that is not there, or an assignment that
                cannot be trusted, is then an error; otherwise the agent goes on trying.

        Returns:
            The update's report, with `once`.

        Raises:
            BrokerError: With `once`: the broker cannot be reached.
            PackageError: With `once`: the assignment is refused.
            NetworkError: With `once`: something did not come in `ONCE_TRIES`.
            DamagedError: The database was damaged while the agent ran; the next start mends it.
        """
        self.start()
        report = None
        while report is None:
            report = self.turn(once=once)
        return report

    def start(self) -> None:
        """Mends what a killed run left, and listens; comes before the first `turn`.

        Raises:
            DamagedError: As `run`.
        """
        self._service.alive(LONGEST_STEP_S)
        with _storage_logged():
            self._updater.clean_up()
        self._remember_status()
        self._subscribe()
        # Not after the connection: a broker that is away is no reason to restart the agent.
        self._service.ready()

    def turn(self, *, once: bool) -> Report | None:
        """Does one step, waits for the next thing to happen, and acts on it; see `run`.

        Returns:
            With `once`: the report of the update that has ended; None before.

        Raises:
            TrimtabError: As `run`.
        """
        self._service.alive(LONGEST_STEP_S)
        connect_s = self._connect(once=once)
        # Also without a broker: a trial goes on, and what failed is taken back.
        step = self._updater.step(self._has_urgent)
        self._tell(step, once=once)
        if step.ended and once:
            self._say_farewell()
            return step.ended
        self._act(self._wait(step.wait_s, connect_s))
        return None

    def stop(self) -> None:
        """Says that this device goes, so that the broker need not find out."""
        with _storage_logged():
            self._updater.stop()
        with contextlib.suppress(NetworkError):
            message = status_message(self._device, None, None)
            self._link.publish(topics.status(self._device), message, retain=True, wait_s=2.0)

    def _subscribe(self) -> None:
        """Turns what comes from the broker into events; runs on the link's worker thread."""
        self._link.subscribe(
            topics.assignment(self._device), lambda _, body, __: self._mailbox.put(Assigned(body))
        )
        self._link.subscribe(
            topics.acknowledgement(self._device),
            lambda _, body, __: self._mailbox.put(Acknowledged(body)),
        )
        self._link.subscribe(
            topics.command(self._device), lambda _, body, __: self._mailbox.put(Commanded(body))
        )
        self._link.when_connected(self._announce)

    def _announce(self) -> None:
        """Runs on the link's worker thread: even during an update the host sees the device."""
        self._mailbox.put(Connected())
        self._link.publish(topics.status(self._device), self._status, retain=True)

    def _remember_status(self) -> str | None:
        """Makes the status anew; returns what is active."""
        active, paused = None, False
        with _storage_logged():
            active, paused = self._active(), self._updater.paused
        self._status = status_message(self._device, active, self._inventory, paused=paused)
        return active

    def _connect(self, *, once: bool) -> float | None:
        """Makes the first connection, if it is due; the link makes all others itself.

        Returns:
            Seconds until it should be tried again, or None once it is made.
        """
        if self._connect_due_s is None:
            return None
        left_s = self._connect_due_s - self._clock()
        if left_s > 0:
            return left_s
        try:
            self._link.connect(CONNECT_TIMEOUT_S)
        except BrokerError as error:
            if once:
                raise
            wait_s = full_jitter_s(
                self._connect_failures, first_s=FIRST_RETRY_S, longest_s=LONGEST_RETRY_S
            )
            _log.warning("%s; trying again in %.1f s", error, wait_s)
            self._connect_failures += 1
            self._connect_due_s = self._clock() + wait_s
            return wait_s
        self._connect_due_s = None
        return None

    def _has_urgent(self) -> bool:
        """Says whether something came that a transfer should be left off for.

        A transfer asks every second, and so shows that it is alive. What comes after it in the
        same step may take as long as any step.
        """
        self._service.alive(LONGEST_STEP_S)
        return any(
            (isinstance(event, Commanded) and self._commands.listening)
            or (isinstance(event, Assigned) and self._updater.would_prove(event.message))
            for event in self._mailbox.waiting
        )

    def _tell(self, step: Step, *, once: bool) -> None:
        """Tells what a step has come to, here and to the host."""
        if step.ended:
            self._show_status()
            self._show(step.ended)
        if step.error is None:
            return
        self._errors += 1
        if once and (isinstance(step.error, PackageError) or self._errors >= ONCE_TRIES):
            raise step.error
        if isinstance(step.error, (NetworkError, StorageError)):
            _log.warning("%s", step.error)
        else:
            self._show(step.error)

    def _show_status(self) -> None:
        active = self._remember_status()
        self._service.status(f"active: {active or 'nothing'}")
        with contextlib.suppress(BrokerError):
            self._link.publish(topics.status(self._device), self._status, retain=True)

    def _wait(self, *others_s: float | None) -> Event | None:
        """Sends what is due, and waits for an event, the next sending or something else."""
        due_s = None
        with _storage_logged():
            due_s = self._outbox.send_due()
        waits = [wait for wait in (due_s, *others_s) if wait is not None]
        self._service.alive(2 * LONGEST_SILENCE_S)
        return self._mailbox.get(max(min([*waits, LONGEST_SILENCE_S]), 0))

    def _act(self, event: Event | None) -> None:
        """Acts on one event."""
        if isinstance(event, Connected):
            self._outbox.reconnected()
            self._updater.reconnected()
        elif isinstance(event, Acknowledged):
            self._acknowledge(event.message)
        elif isinstance(event, Assigned):
            self._updater.offer(event.message)
        elif isinstance(event, Commanded):
            self._obey(event.message)

    def _obey(self, signed: bytes) -> None:
        """Hands a command over, and sends the reply; the host asks again if it is lost."""
        with _storage_logged():
            reply = self._commands.handle(signed)
            if reply is not None:
                with contextlib.suppress(BrokerError):
                    self._link.publish(topics.reply(self._device), reply)
                self._show_status()

    def _acknowledge(self, message: bytes) -> None:
        try:
            acknowledgement = codec.decode(message, Acknowledgement, what="an acknowledgement")
        except PackageError as error:
            _log.warning("%s", error)
        else:
            with _storage_logged():  # it is sent again, and acknowledged again
                self._outbox.acknowledge(acknowledgement.ids)

    def _say_farewell(self) -> None:
        """Waits a while for the host to acknowledge the report; it is kept in any case."""
        deadline = self._clock() + FAREWELL_S
        while len(self._outbox) and self._clock() < deadline:
            event = self._wait(deadline - self._clock())
            if not isinstance(event, Assigned):  # the broker keeps it for the next run
                self._act(event)


@contextlib.contextmanager
def _storage_logged() -> Iterator[None]:
    """Goes on where the disk refuses: what was not written is written at the next occasion."""
    try:
        yield
    except DamagedError:
        raise
    except StorageError as error:
        _log.warning("%s", error)


def progress_publisher(
    link: Connection, device: str, show: Callable[[Progress], None]
) -> Callable[[Progress], None]:
    """Returns a function that shows a step of an update and tells the host of it."""

    def tell(progress: Progress) -> None:
        show(progress)
        with contextlib.suppress(BrokerError):  # lost if nobody listens, by contract
            link.publish(topics.progress(device), codec.encode(progress), qos=0)

    return tell
