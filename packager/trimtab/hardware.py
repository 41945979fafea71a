"""Hardware profiles: finding, reading and checking the YAML files in `profiles/`.

The schema is the contract's (`trimtab_agent.contract.profile`). In an installed wheel the files
lie beside this module, in an editable install at the top of the repository.
"""

from __future__ import annotations

import difflib
import platform
from pathlib import Path

from trimtab.errors import ProfileError
from trimtab.yaml_text import decode_yaml
from trimtab_agent.contract.profile import Profile
from trimtab_agent.contract.session_options import option_faults
from trimtab_agent.errors import FormatError

_GENERIC = {"x86_64": "generic-x86-64", "aarch64": "generic-aarch64"}
_SUFFIX = ".yaml"


def list_profiles() -> tuple[str, ...]:
    """Returns the ids of the profiles that come with Trimtab, sorted."""
    return tuple(sorted(path.stem for path in _directory().glob(f"*{_SUFFIX}")))


def load_profile(id_or_path: str | Path) -> Profile:
    """Reads a profile that comes with Trimtab, or one of the user's own.

    Args:
        id_or_path: An id from `list_profiles`, or the path of a file that ends in `.yaml`.

    Raises:
        ProfileError: No such profile (the message names the nearest ones), or a file that is no
            valid profile (the message ends with the path of the fault).
    """
    if str(id_or_path).endswith(_SUFFIX):
        return _read(Path(id_or_path))
    known = list_profiles()
    if id_or_path not in known:
        raise ProfileError(_unknown(str(id_or_path), known))
    return _read(_directory() / f"{id_or_path}{_SUFFIX}")


def detect_profile(machine: str | None = None) -> Profile:
    """Returns the generic profile of this machine's architecture.

    It never guesses a board: a profile claims sensors and limits that a guess would get wrong.

    Args:
        machine: What `platform.machine()` says; this machine when None.

    Raises:
        ProfileError: There is no generic profile for the architecture.
    """
    machine = platform.machine() if machine is None else machine
    if machine not in _GENERIC:
        raise ProfileError(
            f"there is no generic profile for the architecture {machine!r}; "
            f"name one: {', '.join(list_profiles())}, or the path of your own .yaml file"
        )
    return load_profile(_GENERIC[machine])


def _directory() -> Path:
    """Returns the directory that holds the profiles."""
    here = Path(__file__).resolve()
    installed = here.parent / "profiles"
    return installed if installed.is_dir() else here.parents[2] / "profiles"


def _unknown(name: str, known: tuple[str, ...]) -> str:
    """Returns the message for a name that is not among the known profiles."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"unknown profile {name!r}: {hint}"
        f"The profiles are {', '.join(known)}; the path of your own .yaml file does as well"
    )


def _read(path: Path) -> Profile:
    """Reads and checks one profile file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"profile {path} cannot be read: {error.strerror}") from error
    try:
        profile = decode_yaml(text, Profile)
    except FormatError as error:
        raise ProfileError(f"profile {path} is malformed: {error}") from error
    faults = _faults(profile, path.stem)
    if faults:
        raise ProfileError(f"profile {path} is malformed: {'; '.join(faults)}")
    return profile


def _faults(profile: Profile, stem: str) -> list[str]:
    """Returns everything that is wrong in `profile` beyond what its schema can tell."""
    faults = []
    if profile.id != stem:
        faults.append(f"id is {profile.id!r}, not the file's name {stem!r} - at `$.id`")
    names = [runtime.name for runtime in profile.runtimes]
    if not names:
        faults.append("no runtime is listed - at `$.runtimes`")
    if len(set(names)) != len(names):
        faults.append("a runtime is listed twice - at `$.runtimes`")
    for index, runtime in enumerate(profile.runtimes):
        wrong = option_faults(runtime.name, runtime.options)
        faults.extend(f"{fault} - at `$.runtimes[{index}].options`" for fault in wrong)
    if not profile.channel_multiple.value.is_integer():
        faults.append("the channel multiple is no whole number - at `$.channel_multiple.value`")
    return faults
