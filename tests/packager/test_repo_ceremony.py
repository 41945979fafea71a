"""Several offline keys on several machines: what one signs waits for the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.packages import make_package
from support.repositories import Device
from trimtab.errors import MissingKeyError, RepositoryError, StagedError
from trimtab.fleet.publish import publish_package
from trimtab.fleet.shelf import Shelf
from trimtab.package.keys import KeySources, NewKey
from trimtab.package.new_repository import KeyPlan
from trimtab.package.read import open_package
from trimtab.package.rotation import Rotation
from trimtab.package.sign import Repository
from trimtab_agent.errors import CallerError


class Team:
    """A host with the online keys, and a folder for each person with an offline key."""

    def __init__(self, path: Path, plan: KeyPlan) -> None:
        self.host = path / "host"
        Repository.init(self.host, plan=plan)
        self.people = path / "people"
        self.people.mkdir()
        for pem in [*self.host.glob("keys/root*.pem"), *self.host.glob("keys/targets*.pem")]:
            folder = self.people / pem.stem
            folder.mkdir()
            pem.rename(folder / pem.name)

    def repository(self, person: str | None = None) -> Repository:
        """The repository on the host; with a person, with that person's stick in it."""
        folder = None if person is None else self.people / person
        return Repository.open(self.host, sources=KeySources(folder=folder))

    def sign_elsewhere(self, person: str):
        """Carries the repository, without keys, to the person's machine, and back."""
        carried = self.people / person / "carried"
        shutil.copytree(self.host, carried, ignore=shutil.ignore_patterns("*.pem"))
        sources = KeySources(folder=self.people / person)
        outcome = Repository.open(carried, sources=sources).ceremony.sign()
        shutil.copytree(
            carried / "metadata/staged", self.host / "metadata/staged", dirs_exist_ok=True
        )
        shutil.rmtree(carried)
        return outcome


@pytest.fixture
def team(tmp_path):
    return Team(tmp_path, KeyPlan(root_keys=3, root_threshold=2, targets_keys=2))


@pytest.fixture
def device(team, tmp_path):
    return Device(tmp_path / "device", team.repository().root)


def roles(repository):
    return {role.role: role for role in repository.ceremony.status().roles}


def test_a_release_waits_for_the_offline_machine(team, device):
    with pytest.raises(StagedError, match=r"demo-1\.json: staged.* 1 more needed of: targets-1"):
        team.repository().add_target("demo-1.json", b"one")
    assert "demo-1.json" not in team.repository().targets()
    device.update(team.repository())
    outcome = team.sign_elsewhere("targets-2")
    assert outcome.in_force == ()
    assert "enough keys have signed" in outcome.waiting[0]
    assert "snapshot.pem is missing" in outcome.waiting[0]
    (staged,) = team.repository().ceremony.status().staged
    assert (staged.role, staged.signed, staged.missing) == (
        "targets",
        ("targets-2",),
        ("targets-1",),
    )
    assert staged.changes == ("targets: + demo-1.json (7692c3ad)",)
    assert team.repository().ceremony.status().waiting == ()
    assert "2.targets.json" in team.repository().ceremony.sign().in_force
    assert device.target(team.repository(), "demo-1.json") == b"one"
    assert team.repository().ceremony.status().staged == ()


def test_asking_again_for_a_staged_release_keeps_its_signatures(tmp_path):
    team = Team(tmp_path, KeyPlan(targets_keys=3, targets_threshold=2))
    for _ in range(2):
        with pytest.raises(StagedError):
            team.repository("targets-1").add_target("demo-1.json", b"one")
    with pytest.raises(StagedError, match="demo-1"):
        team.repository().add_target("demo-1.json", b"one")
    assert team.repository().ceremony.status().staged[0].signed == ("targets-1",)
    team.repository("targets-3").add_target("demo-1.json", b"one")
    assert "demo-1.json" in team.repository().targets()


def test_another_release_joins_the_one_that_waits(team):
    for name in ("demo-1.json", "demo-2.json"):
        with pytest.raises(StagedError):
            team.repository().add_target(name, name.encode())
    team.repository("targets-1").ceremony.sign()
    assert {"demo-1.json", "demo-2.json"} <= team.repository().targets().keys()


def test_a_release_takes_along_what_waited(team, device):
    with pytest.raises(StagedError):
        team.repository().add_target("demo-1.json", b"one")
    team.repository("targets-1").add_target("demo-2.json", b"two")
    assert team.repository().ceremony.status().staged == ()
    assert device.target(team.repository(), "demo-1.json") == b"one"
    assert device.target(team.repository(), "demo-2.json") == b"two"


def test_a_change_of_root_takes_along_what_waited(team, device):
    team.repository().ceremony.rotate(Rotation(role="root", add=NewKey(name="dora")))
    team.sign_elsewhere("root-1")
    team.sign_elsewhere("root-2")
    (team.host / "keys" / "root-1.pem").write_bytes(
        (team.people / "root-1" / "root-1.pem").read_bytes()
    )
    team.repository("root-2").ceremony.rotate(Rotation(role="timestamp"))
    assert team.repository().root_version == 2
    assert team.repository().ceremony.status().staged == ()
    device.update(team.repository())


def test_a_new_root_needs_the_old_threshold_and_the_new(team, device):
    assert (
        team.repository()
        .ceremony.rotate(Rotation(role="root", add=NewKey(name="dora"), remove=["root-3"]))
        .waiting
    )
    assert team.repository().root_version == 1
    outcome = team.sign_elsewhere("root-1")
    # root-1 and dora are two of the new root's keys, but only root-1 is one of the old one's.
    assert outcome.in_force == ()
    assert "1 of 2 signatures for version 1 of the root" in outcome.waiting[0]
    team.sign_elsewhere("root-2")
    assert team.repository().root_version == 1
    assert team.repository().ceremony.sign().in_force[0] == "2.root.json"
    assert [key.name for key in roles(team.repository())["root"].keys] == [
        "root-1",
        "root-2",
        "dora",
    ]
    device.update(team.repository())


def test_the_signatures_of_the_new_keys_alone_are_not_enough(team):
    team.repository().ceremony.rotate(Rotation(role="root", add=NewKey(name="eve")))
    team.repository().ceremony.rotate(Rotation(role="root", add=NewKey(name="eve-2")))
    outcome = team.repository().ceremony.sign()
    assert "0 of 2 signatures for version 1 of the root" in outcome.waiting[0]
    assert team.repository().root_version == 1


def test_a_replaced_targets_key_comes_with_targets_signed_by_the_new_one(team, device):
    team.repository().ceremony.rotate(
        Rotation(role="targets", add=NewKey(name="tina"), remove=["targets-1"])
    )
    team.repository().ceremony.rotate(Rotation(role="targets", remove=["targets-2"]))
    assert [staged.role for staged in team.repository().ceremony.status().staged] == [
        "root",
        "targets",
    ]
    team.sign_elsewhere("root-2")
    team.sign_elsewhere("root-3")
    assert team.repository().ceremony.sign().in_force[:2] == ("2.root.json", "2.targets.json")
    device.update(team.repository())


def test_a_release_goes_on_while_a_change_of_root_waits(team, device):
    team.repository().ceremony.rotate(
        Rotation(role="targets", add=NewKey(name="tina"), remove=["targets-1"])
    )
    team.repository("targets-2").add_target("demo-1.json", b"one")
    assert device.target(team.repository(), "demo-1.json") == b"one"
    assert [staged.role for staged in team.repository().ceremony.status().staged] == ["root"]
    team.sign_elsewhere("root-1")
    team.sign_elsewhere("root-2")
    assert team.repository().ceremony.sign().in_force[0] == "2.root.json"
    assert device.target(team.repository(), "demo-1.json") == b"one"


def test_a_signature_by_a_stranger_does_not_count(team, tmp_path):
    stranger = Team(tmp_path / "stranger", KeyPlan(root_keys=3, root_threshold=2))
    team.repository().ceremony.rotate(Rotation(role="root", add=NewKey(name="dora")))
    for person in ("root-1", "root-2"):
        pem = tmp_path / "stranger" / "people" / person / f"{person}.pem"
        shutil.copy(pem, tmp_path / "people" / person / f"{person}.pem")
    with pytest.raises(RepositoryError, match=r"root-1\.pem holds another key than the root key"):
        team.repository("root-1").ceremony.sign()
    assert stranger.repository().root_version == team.repository().root_version == 1


def test_what_was_staged_for_another_state_is_refused(team, tmp_path):
    with pytest.raises(StagedError):
        team.repository().add_target("demo-1.json", b"one")
    staged = team.host / "metadata" / "staged" / "targets.json"
    old = staged.read_bytes()
    team.repository("targets-1").ceremony.sign()
    team.repository("targets-1").add_target("demo-2.json", b"two")
    staged.write_bytes(old)
    with pytest.raises(RepositoryError, match=r"is version 2, and version 3 is in force.* anew"):
        team.repository().ceremony.sign()
    staged.unlink()
    team.repository().ceremony.status()


def test_a_host_without_the_keys_says_so_before_any_work(team):
    with pytest.raises(MissingKeyError, match=r"cannot be signed here: .*targets-1, targets-2"):
        team.repository().ceremony.check_can_release()
    team.repository("targets-2").ceremony.check_can_release()


def test_offline_keys_are_made_in_another_folder(tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    sources = KeySources(folder=stick)
    repository = Repository.init(tmp_path / "repo", plan=KeyPlan(root_keys=2), sources=sources)
    assert {path.name for path in stick.iterdir()} == {"root-1.pem", "root-2.pem", "targets.pem"}
    repository.ceremony.rotate(Rotation(role="root", add=NewKey(name="dora")))
    repository.ceremony.rotate(Rotation(role="snapshot"))
    assert (stick / "dora.pem").is_file()
    assert (tmp_path / "repo" / "keys" / "snapshot-2.pem").is_file()
    with pytest.raises(CallerError, match="there is a key 'targets' already"):
        Repository.init(tmp_path / "other", sources=sources)
    assert not (stick / "root.pem").exists()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"root_keys": 2, "root_threshold": 3}, "root: 3 signatures of 2 keys"),
        ({"targets_threshold": 0}, "targets: 0 signatures of 1 keys"),
    ],
)
def test_a_threshold_that_cannot_be_met_is_refused(plan, message):
    with pytest.raises(CallerError, match=message):
        KeyPlan(**plan)


def test_nothing_is_sent_of_a_package_that_cannot_be_released(team, tmp_path):
    """The keys come before the megabytes."""
    package = open_package(make_package(tmp_path))
    shelf = Shelf(f"sqlite:///{tmp_path / 'reports.sqlite'}")
    link = SilentLink()
    with pytest.raises(StagedError, match="staged, not released yet"):
        publish_package(link, team.repository(), package, shelf=shelf)
    assert link.sent == []
    team.repository("targets-1").ceremony.sign()
    publish_package(link, team.repository(), package, shelf=shelf)
    assert link.sent
    shelf.close()


class SilentLink:
    """A connection that takes everything."""

    max_payload_bytes = None

    def __init__(self) -> None:
        self.sent: list[str] = []

    def publish(self, topic: str, *_: object, **__: object) -> None:
        self.sent.append(topic)
