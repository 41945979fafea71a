"""Good packages that are not wanted: not signed, for another device, old, or failing on trial."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from support.hundred_device import Surroundings, gates_off
from support.hundred_kinds import Attack, Case, Kind
from trimtab_agent.config import HealthConfig, HooksConfig

_PAST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def _assigned(case: Case, **changes: Any) -> Attack:
    return Attack(case.made.package, assignment=changes)


def _replayed(case: Case) -> Attack:
    """The bytes of an assignment that was carried out long ago."""
    old = case.device.first_message
    return Attack(case.made.package, message=lambda signed: old)


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Case], Attack]:
    return lambda case: Attack(case.made.package, message=change)


def _unreleased(case: Case) -> Attack:
    return Attack(target=f"{case.family.name}-never.json")


def _stolen_role(case: Case, role: str) -> Attack:
    """Metadata of one role is signed by a stranger, from now on until it is put right."""
    simulator = case.device.simulator
    own = simulator.signers[role]
    simulator.signers[role] = [CryptoSigner.generate_ed25519()]

    def undo() -> None:
        simulator.signers[role] = own
        for signed in (simulator.targets, simulator.snapshot, simulator.timestamp):
            signed.version += 1
        simulator.publish()

    return Attack(case.made.package, undo=undo)


def _expired_role(case: Case, role: str) -> Attack:
    simulator = case.device.simulator
    signed = getattr(simulator, role)
    right, signed.expires = signed.expires, _PAST

    def undo() -> None:
        signed.expires = right
        for each in (simulator.targets, simulator.snapshot, simulator.timestamp):
            each.version += 1
        simulator.publish()

    return Attack(case.made.package, undo=undo)


def _trial(case: Case, *, hooks: HooksConfig | None = None, health: Any = None) -> Attack:
    around = Surroundings(hooks=hooks or HooksConfig(), health=health or HealthConfig())
    # Not measured in turns: what fails here fails after that.
    return Attack(case.made.package, around=around, assignment=gates_off())


def _health(script: str, **options: Any) -> Callable[[Case], Attack]:
    config = HealthConfig(command=("sh", "-c", script), interval_s=0.01, **options)
    return lambda case: _trial(case, health=config)


def _sick_after_a_while(case: Case) -> Attack:
    """Is well at first; the probation time is there for it."""
    mark = case.device.state_dir / f"well-{case.made.manifest.version}"
    script = f"test ! -e {mark} && touch {mark}"
    config = HealthConfig(command=("/bin/sh", "-c", script), interval_s=0.01)
    return Attack(
        case.made.package,
        around=Surroundings(health=config),
        assignment={"probation_s": 0.2, **gates_off()},
    )


_STALE = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat(timespec="seconds")

KINDS: tuple[Kind, ...] = (
    Kind("replayed assignment", ("replay",), "unaccepted", _replayed),
    Kind("lower counter", ("replay",), "unaccepted", lambda case: _assigned(case, counter=0)),
    Kind("same counter, other package", ("",), "unaccepted",
         lambda case: _assigned(case, counter=case.device.memory.counter)),
    Kind("for another device", ("trust",), "unaccepted",
         lambda case: _assigned(case, device="dev-2")),
    Kind("expired assignment", ("expired",), "waiting",
         lambda case: _assigned(case, expires=_STALE)),
    Kind("expiry is no time", ("trust",), "unaccepted",
         lambda case: _assigned(case, expires="never")),
    Kind("assignment signed by a stranger", ("trust",), "unaccepted",
         lambda case: Attack(case.made.package, key=Ed25519PrivateKey.generate())),
    Kind("assignment changed on its way", ("trust", "format"), "unaccepted",
         _changed(lambda signed: signed.replace(b'payload":"e', b'payload":"f', 1))),
    Kind("assignment cut short", ("format",), "unaccepted", _changed(lambda signed: signed[:-9])),
    Kind("no assignment", ("format",), "unaccepted", _changed(lambda signed: b"\0" * 50)),
    Kind("unreleased target", ("trust",), "refused", _unreleased),
    Kind("targets signed by a stranger", ("trust",), "unaccepted",
         lambda case: _stolen_role(case, "targets")),
    Kind("snapshot signed by a stranger", ("trust",), "unaccepted",
         lambda case: _stolen_role(case, "snapshot")),
    Kind("timestamp signed by a stranger", ("trust",), "unaccepted",
         lambda case: _stolen_role(case, "timestamp")),
    Kind("expired timestamp", ("expired",), "waiting",
         lambda case: _expired_role(case, "timestamp")),
    Kind("expired targets", ("expired",), "waiting", lambda case: _expired_role(case, "targets")),
    Kind("hook before the switch fails", ("hook",), "refused",
         lambda case: _trial(case, hooks=HooksConfig(before_switch=("false",)))),
    Kind("hook after the switch fails", ("hook",), "rolled_back",
         lambda case: _trial(case, hooks=HooksConfig(after_switch=("false",)))),
    Kind("hook after the switch is missing", ("hook",), "rolled_back",
         lambda case: _trial(case, hooks=HooksConfig(after_switch=("/nowhere/restart",)))),
    Kind("health command fails", ("health",), "rolled_back", _health("exit 3")),
    Kind("health command hangs", ("health",), "rolled_back", _health("sleep 60", timeout_s=0.3)),
    Kind("health command crashes", ("health",), "rolled_back", _health("kill -SEGV $$")),
    Kind("sick after a while", ("health",), "rolled_back", _sick_after_a_while),
)  # fmt: skip
