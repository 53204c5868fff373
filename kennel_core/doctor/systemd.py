"""systemd: its version, and whether it runs a unit of Kennel's."""

import re
import secrets

from kennel_core.adapters.loaded_units import LoadedUnits
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.doctor.checks import Check, Checks, ok, warning
from kennel_core.settings import Settings

SYSTEM = "systemd"
TIMEOUT_S = 15.0
OLDEST = 252  # of those that Kennel is tested with
SLEEP = "/bin/sleep"


def examine(settings: Settings) -> Checks:
    """Start and stop a unit. Raises what a pass would get."""
    name = f"kennel-doctor-{secrets.token_hex(6)}.service"
    spec = UnitSpec(
        name=name,
        argv=(SLEEP, "60"),
        environment={},
        working_directory="/",
        description="Kennel: see that a unit can be started",
        user=dynamic_user(name),
        log_fields={},
        memory_max=16 * 1024**2,
        tasks_max=4,
    )
    with LoadedUnits(settings.bus) as systemd:
        version = systemd.version()
        yield _judged(version, settings.bus)
        try:
            systemd.start(spec, TIMEOUT_S)
        finally:
            systemd.stop(name, TIMEOUT_S)
        yield ok(SYSTEM, "started and stopped a unit")
        if not systemd.sandboxed:
            remedy = "for more than one person's projects use the system's manager: KENNEL_BUS=system"
            yield warning(SYSTEM, "a user's manager has no sandbox: services see what this user sees", remedy)


def _judged(version: str, bus: str) -> Check:
    number = re.match(r"\d+", version)
    if number is None or int(number[0]) < OLDEST:
        remedy = f"Kennel is tested with {OLDEST} and newer: parts of the sandbox may be missing"
        return warning(SYSTEM, f"version {version} answers on the {bus} bus", remedy)
    return ok(SYSTEM, f"version {version} answers on the {bus} bus")
