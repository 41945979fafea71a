"""Where devices reach the workspace's broker: written by `trimtab serve`, read for tokens."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trimtab.errors import RepositoryError
from trimtab.package.files import write_atomically
from trimtab_agent.contract import codec
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import FormatError

_FILE = "broker.json"


class BrokerAddress(msgspec.Struct, kw_only=True, frozen=True):
    """Both listeners of a broker with TLS, as `mqtts://HOST:PORT`.

    Attributes:
        broker: For enrolled devices and hosts.
        enrolment: For devices with a token.
    """

    broker: str
    enrolment: str

    def write(self, identity_path: Path) -> None:
        """Keeps the address in the workspace.

        Raises:
            StorageError: The disk refuses.
        """
        write_atomically(identity_path / _FILE, codec.encode_pretty(self))

    @staticmethod
    def forget(identity_path: Path) -> None:
        """Removes the address that was kept, if any: the broker has no TLS now.

        Raises:
            StorageError: The disk refuses.
        """
        with storage_errors(f"removing {identity_path / _FILE}"):
            (identity_path / _FILE).unlink(missing_ok=True)

    @classmethod
    def read(cls, identity_path: Path) -> BrokerAddress:
        """Returns the address that was kept last.

        Raises:
            RepositoryError: There is none, or it is damaged.
        """
        path = identity_path / _FILE
        try:
            return codec.decode(path.read_bytes(), cls, what=str(path))
        except FileNotFoundError as error:
            raise RepositoryError(
                f"{path} is missing: devices enrol at a broker with TLS; start one first with "
                f"trimtab serve --host ADDRESS, or on this machine alone with --tls"
            ) from error
        except (OSError, FormatError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}") from error
