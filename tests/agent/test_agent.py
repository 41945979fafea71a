"""The agent's event loop, with a connection that is told what to do."""

from __future__ import annotations

import threading

import pytest

from support.manifests import small_package
from support.updates import INVENTORY, Device, assignment_message
from trimtab_agent.agent import Agent
from trimtab_agent.allowance import BURST
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import Acknowledgement, Report, Status
from trimtab_agent.errors import BrokerError, HealthError, PackageError, StorageError
from trimtab_agent.mailbox import MAX_MESSAGE_BYTES, MAX_WAITING, Commanded
from trimtab_agent.outbox import Outbox
from trimtab_agent.systemd import Service

HERE = "dev-1"


class Broker:
    """A connection to a broker in this process; it acknowledges reports if `acknowledges`."""

    def __init__(self):
        self.there = True
        self.acknowledges = True
        self.tries = 0
        self.handlers = {}
        self.published = []
        self.connected = lambda: None

    def connect(self, timeout_s):
        self.tries += 1
        if not self.there:
            raise BrokerError("nobody listens")
        self.connected()

    def when_connected(self, call):
        self.connected = call

    def subscribe(self, topic, handler):
        self.handlers[topic] = handler

    def deliver(self, topic, payload):
        self.handlers[topic](topic, payload, {})

    def publish(self, topic, payload, **_):
        if not self.there:
            raise BrokerError("nobody listens")
        self.published.append((topic, payload))
        if topic == topics.report(HERE) and self.acknowledges:
            ids = (codec.decode(payload, Report, what="report").id,)
            self.deliver(topics.acknowledgement(HERE), codec.encode(Acknowledgement(ids=ids)))

    def at(self, topic):
        return [payload for where, payload in self.published if where == topic]


class Echo:
    """Answers every command with what came, while it listens."""

    def __init__(self):
        self.got = []
        self.listening = True

    def handle(self, signed):
        self.got.append(signed)
        return b"done " + signed


class Enough(BaseException):
    """Ends the loop."""


class Setup:
    """An agent on a real store and database; `shown` holds what it showed."""

    def __init__(self, directory):
        self.device = Device(directory)
        self.broker = Broker()
        self.commands = Echo()
        self.shown = []
        self.agent = Agent(
            device=HERE,
            link=self.broker,
            updater=self.device.updater,
            commands=self.commands,
            outbox=Outbox(self.device.memory, self.send),
            inventory=INVENTORY,
            active=lambda: self.device.active,
            service=Service({}),
            show=self.shown.append,
        )

    def send(self, report):
        self.broker.publish(topics.report(HERE), report)

    def assign(self, counter, version):
        package = small_package(version, model=version.encode() * 5000)
        return assignment_message(counter, self.device.world.release(package))

    def run_until(self, wanted):
        """Runs the loop until `wanted` says so after a step."""
        step = self.device.updater.step

        def watched(stop):
            if wanted():
                raise Enough
            return step(stop)

        self.device.updater.step = watched
        timer = threading.Timer(20, lambda: self.broker.deliver(topics.command(HERE), b"wake up"))
        timer.start()
        try:
            with pytest.raises(Enough):
                self.agent.run(once=False)
        finally:
            timer.cancel()
            self.device.updater.step = step


@pytest.fixture
def setup(tmp_path):
    made = Setup(tmp_path)
    yield made
    made.device.close()


def on_connection(setup, *messages):
    """Has the broker deliver messages as soon as the device is there."""
    announce = setup.broker.when_connected

    def connected(call):
        def both():
            call()
            for topic, payload in messages:
                setup.broker.deliver(topic, payload)

        announce(both)

    setup.broker.when_connected = connected


def test_once_ends_after_one_update(setup):
    on_connection(setup, (topics.assignment(HERE), setup.assign(1, "1")))
    report = setup.agent.run(once=True)
    assert (report.outcome, setup.device.active) == ("active", "model-1.json")
    assert len(setup.device.memory.outbox) == 0
    statuses = [
        codec.decode(data, Status, what="status") for data in setup.broker.at(topics.status(HERE))
    ]
    assert [status.active for status in statuses] == [None, "model-1.json"]


def test_once_ends_with_what_was_refused(setup):
    on_connection(setup, (topics.assignment(HERE), b"rubbish"))
    with pytest.raises(PackageError, match="cannot be read"):
        setup.agent.run(once=True)


def test_once_ends_where_there_is_no_broker(setup):
    setup.broker.there = False
    with pytest.raises(BrokerError):
        setup.agent.run(once=True)


def test_a_command_is_handed_over_and_its_reply_sent(setup):
    on_connection(setup, (topics.command(HERE), b"c-1"))
    setup.run_until(lambda: setup.broker.at(topics.reply(HERE)))
    assert setup.commands.got == [b"c-1"]
    assert setup.broker.at(topics.reply(HERE)) == [b"done c-1"]


def test_a_trial_ends_also_without_a_broker(setup):
    device = setup.device
    device.update(1, small_package("1"))
    device.world.has_health = True
    device.assign(2, small_package("2", model=b"2" * 9000))
    device.run_to("trial")
    device.world.faults["check_health"] = [HealthError("ill")]
    setup.broker.there = False
    setup.run_until(lambda: device.memory.pending is None)
    assert device.active == "model-1.json"
    assert setup.broker.tries == 1


def test_what_the_disk_refuses_does_not_end_the_agent(setup):
    memory, refused = setup.device.memory, []

    def refuse_once(name):
        real = getattr(memory, name)

        def refuse(*args, **options):
            if name not in refused:
                refused.append(name)
                raise StorageError("the disk is full")
            return real(*args, **options)

        setattr(memory, name, refuse)

    for name in ("accept", "acknowledge", "settle"):
        refuse_once(name)
    # The world's time stands still, so that what is tried later is tried when something comes.
    step = setup.device.updater.step

    def hurried(stop):
        done = step(stop)
        setup.device.world.uptime_s += done.wait_s or 0.0
        setup.broker.deliver(topics.acknowledgement(HERE), codec.encode(Acknowledgement(ids=())))
        return done

    setup.device.updater.step = hurried
    on_connection(setup, (topics.assignment(HERE), setup.assign(1, "1")))
    setup.run_until(lambda: len(refused) == 3 and not memory.pending and not memory.outbox)
    assert setup.device.active == "model-1.json"


def test_only_what_is_new_interrupts_a_transfer(setup):
    signed = setup.assign(1, "1")
    setup.device.updater.offer(signed)
    setup.device.run_to("fetching")
    setup.agent._subscribe()
    for topic, payload, urgent in (
        (topics.acknowledgement(HERE), b"{}", False),
        (topics.assignment(HERE), signed, False),  # again, after a reconnection
        (topics.command(HERE), b"pause", True),
    ):
        setup.broker.deliver(topic, payload)
        assert setup.agent._has_urgent() == urgent


def test_what_would_not_be_looked_at_interrupts_no_transfer(setup):
    setup.commands.listening = False
    for number in range(BURST):
        setup.device.updater.offer(b"forged %d" % number)
        assert setup.device.updater.step().error
    setup.agent._subscribe()
    setup.broker.deliver(topics.command(HERE), b"pause")
    setup.broker.deliver(topics.assignment(HERE), b"forged once more")
    assert not setup.agent._has_urgent()


def test_a_flood_is_bounded(setup):
    setup.agent._subscribe()
    for number in range(1000):
        for topic in (topics.assignment(HERE), topics.command(HERE), topics.acknowledgement(HERE)):
            setup.broker.deliver(topic, b"%d" % number)
            setup.broker.deliver(topic, b"the same")
    setup.broker.deliver(topics.command(HERE), bytes(MAX_MESSAGE_BYTES + 1))
    waiting = setup.agent._mailbox.waiting
    assert len(waiting) <= 3 * MAX_WAITING
    assert Commanded(b"999") in waiting
    assert max(len(event.message) for event in waiting) < 10


def test_a_disk_that_cannot_tell_what_is_active_does_not_end_the_agent(setup):
    refusals = [StorageError("I/O error")] * 2

    def active():
        if refusals:
            raise refusals.pop()
        return setup.device.active

    setup.agent._active = active
    on_connection(setup, (topics.assignment(HERE), setup.assign(1, "1")))
    assert setup.agent.run(once=True).outcome == "active"
    assert refusals == []
