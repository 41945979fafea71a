"""The workspace's identity: its certificate authority, and itself as a client of a broker."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

from trimtab.fleet.authority import Authority
from trimtab.fleet.enrolment import Enrolment
from trimtab.fleet.registry import Registry
from trimtab.workflow.workspace import Workspace
from trimtab_agent.broker_url import BrokerUrl
from trimtab_agent.durable import storage_errors
from trimtab_agent.link import Link
from trimtab_agent.tls import TlsFiles


def host_files(workspace: Workspace) -> TlsFiles:
    """Returns the host's client certificate, which opens every topic of the workspace's broker.

    Raises:
        RepositoryError: The certificate authority is damaged.
        StorageError: The disk refuses.
    """
    authority = Authority.open(workspace.identity_path)
    return authority.host_files(datetime.now(timezone.utc))


def open_link(workspace: Workspace, broker: BrokerUrl) -> Link:
    """Returns a link to a broker on behalf of the workspace, not connected yet.

    Raises:
        IdentityError: The broker wants TLS, and the host's certificate cannot be used.
        RepositoryError: The certificate authority is damaged.
        StorageError: The disk refuses.
    """
    tls = host_files(workspace) if broker.tls else None
    return Link(broker, f"trimtab-host-{uuid.uuid4().hex[:8]}", tls=tls)


def open_registry(workspace: Workspace) -> Registry:
    """Opens the register of tokens and certificates.

    Raises:
        StorageError: The disk refuses.
    """
    with storage_errors(f"making {workspace.identity_path}"):
        workspace.identity_path.mkdir(mode=0o700, exist_ok=True)
    return Registry(workspace.identity_path / "register.sqlite")


def open_enrolment(workspace: Workspace) -> Enrolment:
    """Opens what gives tokens and certificates.

    Raises:
        RepositoryError: The authority is damaged.
        StorageError: The disk refuses, or the repository's first root cannot be read.
    """
    authority = Authority.open(workspace.identity_path)
    with storage_errors(f"reading {workspace.root_file}"):
        root = workspace.root_file.read_bytes()
    return Enrolment(authority, open_registry(workspace), root)
