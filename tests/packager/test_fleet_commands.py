"""Commands over a real broker: signed, answered, and refused where they must be."""

from __future__ import annotations

import threading
from datetime import datetime, timezone

import pytest

from support.brokers import broker_of, connected
from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.commands import Console
from trimtab.package.sign import Repository
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.commands import COMMAND_CONTEXT, Command, CommandReply
from trimtab_agent.contract.messages import (
    ASSIGNMENT_CONTEXT,
    ASSIGNMENT_KEYS_TARGET,
    AssignmentKeys,
)
from trimtab_agent.errors import TrustError
from trimtab_agent.signed import verify_signed


@pytest.fixture
def repository(tmp_path):
    return Repository.init(tmp_path / "repository")


def verify(repository, message, *, context=COMMAND_CONTEXT, device="dev-1") -> Command:
    keys = codec.decode(repository.target(ASSIGNMENT_KEYS_TARGET), AssignmentKeys, what="the keys")
    payload = verify_signed(
        message,
        keys,
        what="the command",
        context=context,
        device=device,
        now=datetime.now(timezone.utc),
    )
    return codec.decode(payload, Command, what="the command")


def test_a_command_is_for_one_device_and_one_purpose(repository):
    message = repository.orders.sign_command(
        repository.orders.new_command("dev-1", "logs", lines=7)
    )
    assert verify(repository, message).lines == 7
    with pytest.raises(TrustError, match="for 'dev-1'; this is 'dev-2'"):
        verify(repository, message, device="dev-2")
    with pytest.raises(TrustError, match="no good signature"):
        verify(repository, message, context=ASSIGNMENT_CONTEXT)


def test_commands_and_assignments_share_one_sequence(repository):
    repository.add_target("model-1.json", b"{}")
    counters = [
        repository.orders.new_command("dev-1", "pause").counter,
        repository.orders.new_assignment("dev-1", "model-1.json").counter,
        repository.orders.new_command("dev-1", "resume").counter,
    ]
    assert counters == sorted(set(counters))


def test_a_device_that_comes_late_gets_the_same_command_again(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.fleet.commands.RESEND_S", 0.2)
    seen = []
    with (
        broker_of("mosquitto", tmp_path / "broker") as broker,
        connected(broker, "host") as host,
        connected(broker, "dev-1") as device,
    ):

        def answer(_topic, message, _properties):
            command = verify(repository, message)
            seen.append(command.counter)
            reply = CommandReply(
                device="dev-1",
                counter=command.counter,
                action=command.action,
                active=None,
                paused=True,
            )
            device.publish(topics.reply("dev-1"), codec.encode(reply))

        late = threading.Timer(0.5, device.subscribe, (topics.command("dev-1"), answer))
        late.start()
        reply = Console(host, repository).tell("dev-1", "pause", timeout_s=10)
        late.join()
    assert reply.paused
    assert set(seen) == {1}


def test_a_device_that_is_silent_is_named_with_what_to_look_at(repository, tmp_path):
    with (
        broker_of("mosquitto", tmp_path / "broker") as broker,
        connected(broker, "host") as host,
        pytest.raises(DeviceTimeoutError, match=r"'dev-1' did not answer .* \(trimtab device list"),
    ):
        Console(host, repository).tell("dev-1", "measure", timeout_s=0.2)


def test_replies_that_nobody_waits_for_are_not_kept(repository):
    class Local:
        def subscribe(self, topic, handler):
            self.handler = handler

    link = Local()
    console = Console(link, repository)
    for counter in range(100):
        reply = CommandReply(
            device="dev-1", counter=counter, action="pause", active=None, paused=True
        )
        link.handler(topics.reply("dev-1"), codec.encode(reply), {})
    assert not console._replies
