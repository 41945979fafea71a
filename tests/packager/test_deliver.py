"""What a wait for a device's report says when the device is not there."""

from __future__ import annotations

import pytest

from trimtab.errors import DeviceTimeoutError
from trimtab.fleet.reports import ReportStore
from trimtab.fleet.shelf import Shelf
from trimtab.workflow.deliver import Delivery
from trimtab.workflow.workspace import Workspace
from trimtab_agent.contract import codec, topics
from trimtab_agent.contract.messages import Assignment, Status


class QuietLink:
    """Hands over one retained status, and nothing else ever comes."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def subscribe(self, topic, handler) -> None:
        if topic == topics.ALL_STATUS:
            handler(topics.status(self._status.device), codec.encode(self._status), {})


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status(device="dev-1", online=True), r"on this broker\?$"),
        (Status(device="dev-1", online=False), "it is offline now, and finds the assignment"),
        (Status(device="dev-1", online=True, paused=True), "trimtab device resume dev-1"),
    ],
)
def test_a_wait_in_vain_says_whether_the_device_is_there(tmp_path, status, words):
    workspace = Workspace.create(tmp_path / "workspace")
    store, shelf = ReportStore(workspace.database_url), Shelf(workspace.database_url)
    link = QuietLink(status)
    delivery = Delivery(link, workspace, store, shelf)
    assignment = Assignment(device="dev-1", counter=1, target="a-1.json", issued="", expires="")
    with pytest.raises(DeviceTimeoutError, match=words):
        delivery.wait_for_report(assignment, timeout_s=0.01)
    shelf.close()
    store.close()
