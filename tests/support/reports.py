"""A report whose every field is fixed, for tests that need one."""

from __future__ import annotations

import msgspec

from trimtab_agent.contract.messages import Failure, Inventory, Report

INVENTORY = Inventory(
    profile="generic-x86-64",
    architecture="x86_64",
    cpu_model=None,
    cores=2,
    ram_bytes=1 << 30,
    os="Linux",
    kernel="6",
    python="3.11",
    agent_version="0.1.0",
    runtimes={},
    power_source=None,
)


def make_report(number: int = 1, **changes: object) -> Report:
    """Returns a device's report on its assignment of this counter."""
    report = Report(
        id=f"report-{number}",
        device="dev-1",
        counter=number,
        target="demo-1.json",
        target_sha256="0" * 64,
        trial="t1",
        outcome="rolled_back",
        active=None,
        failure=Failure(state="checked", reason="golden", message="differs by 0.5"),
        transfer=None,
        golden=None,
        measurement=None,
        inventory=INVENTORY,
        started="2026-11-22T00:00:00Z",
        finished="2026-11-22T00:00:01Z",
    )
    return msgspec.structs.replace(report, **changes)
