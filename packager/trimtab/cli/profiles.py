"""`trimtab profiles`."""

from __future__ import annotations

from trimtab.cli.options import Json
from trimtab.cli.output import print_json, print_table


def command(json: Json = False) -> None:
    """List the hardware profiles that come with Trimtab.

    Example: trimtab profiles --json
    """
    from trimtab.hardware import list_profiles, load_profile

    profiles = [load_profile(name) for name in list_profiles()]
    if json:
        print_json(profiles)
        return
    print_table(
        ("id", "device", "architecture", "runtimes", "power sensor"),
        (
            (
                profile.id,
                profile.title,
                profile.architecture,
                ", ".join(runtime.name for runtime in profile.runtimes),
                ", ".join(sensor.source for sensor in profile.power) or "none",
            )
            for profile in profiles
        ),
    )
