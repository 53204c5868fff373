"""systemd: its version, and whether it runs a unit of Kennel's."""

import secrets

from kennel_core.adapters.loaded_units import LoadedUnits
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.doctor.checks import Checks, ok, warning
from kennel_core.settings import Settings

SYSTEM = "systemd"
TIMEOUT_S = 15.0
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
        yield ok(SYSTEM, f"version {systemd.version()} answers on the {settings.bus} bus")
        try:
            systemd.start(spec, TIMEOUT_S)
        finally:
            systemd.stop(name, TIMEOUT_S)
        yield ok(SYSTEM, "started and stopped a unit")
        if not systemd.sandboxed:
            remedy = "for more than one person's projects use the system's manager: KENNEL_BUS=system"
            yield warning(SYSTEM, "a user's manager has no sandbox: services see what this user sees", remedy)
