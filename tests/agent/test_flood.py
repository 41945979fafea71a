"""What a stranger who can publish at the broker costs a device: bounded, whatever he sends."""

from __future__ import annotations

import pytest

from support.manifests import small_package
from support.updates import Device, assignment_message
from trimtab_agent.allowance import BURST, REFILL_S, Allowance
from trimtab_agent.errors import ExpiredError, StorageError, TrustError
from trimtab_agent.mailbox import Acknowledged, Assigned, Commanded, Connected, Mailbox


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path)
    yield made
    made.close()


def test_an_allowance_comes_back_with_time():
    now_s = 100.0
    allowance = Allowance(lambda: now_s)
    for _ in range(3 * BURST):
        allowance.spend()
    assert allowance.wait_s() == REFILL_S
    now_s += REFILL_S / 2
    assert allowance.wait_s() == REFILL_S / 2
    now_s += REFILL_S / 2
    assert allowance.wait_s() == 0.0
    allowance.spend()
    assert allowance.wait_s() > 0
    now_s += BURST * REFILL_S
    for _ in range(BURST):
        assert allowance.wait_s() == 0.0
        allowance.spend()


def test_forged_assignments_are_proven_seldom(device):
    device.world.faults["verify_assignment"] = [TrustError("no good signature")] * 10_000
    for number in range(600):
        device.updater.offer(b"forged %d" % number)
        device.updater.step()
        device.world.uptime_s += 1.0
    assert device.world.calls.count("verify_assignment") <= BURST + 600 / REFILL_S


def test_a_genuine_assignment_costs_nothing(device):
    for counter in range(1, 2 * BURST):
        assert device.update(counter, small_package(str(counter))).outcome == "active"
    assert device.world.uptime_s == 0.0


def test_an_old_message_does_not_hold_up_a_new_one(device):
    verify = device.world.verify_assignment

    def verify_unless_old(signed, *, now):
        if signed == b"old":
            raise ExpiredError("expired a year ago")
        return verify(signed, now=now)

    device.world.verify_assignment = verify_unless_old
    device.updater.offer(b"old")
    for _ in range(20):
        device.world.uptime_s += device.updater.step().wait_s
    device.assign(1, small_package("1"))
    began_s = device.world.uptime_s
    assert device.run().outcome == "active"
    assert device.world.uptime_s == began_s


def test_an_assignment_outlives_a_full_disk(device):
    device.world.faults["verify_assignment"] = [StorageError("no room for the metadata")]
    assert device.update(1, small_package("1")).outcome == "active"


def test_a_flood_of_offers_is_forgotten(device):
    for number in range(1000):
        device.updater.offer(assignment_message(number, "model"))
    assert len(device.updater._offers._messages) == 4


def test_a_mailbox_keeps_the_order_and_each_message_once():
    box = Mailbox()
    sent = [Connected(), Commanded(b"1"), Assigned(b"1"), Acknowledged(b"1")]
    for event in [*sent, *sent]:
        box.put(event)
    assert [box.get(0) for _ in sent] == sent
    assert box.get(0) is None
