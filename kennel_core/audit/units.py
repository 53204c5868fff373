"""systemd: the units of services, and the files they read their secrets from."""

import re
from functools import partial

from kennel_core.adapters.loaded_units import LoadedUnits
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.audit.findings import Finding, Verdict, unknown
from kennel_core.audit.scope import Scope
from kennel_core.provision.valkey.instance import PREFIX as VALKEY
from kennel_core.reconcile.plan import RUNNING

SYSTEM = "systemd"
BUILD = "kennel-build-"  # a build's own units are the builder's affair
ENDED = frozenset({"inactive", "failed"})


def look(scope: Scope) -> list[Finding]:
    """Compare the units with the rows and with the table.

    A unit that is defined by a file, such as Kennel's own, is not one of these.
    """
    with LoadedUnits(scope.settings.bus) as systemd:
        units = systemd.units()
        there = [name for name, state in units.items() if state != "inactive"]
        strange = [
            name
            for name in there
            if name not in scope.made
            and name not in scope.named
            and not name.startswith((VALKEY, BUILD))
            and systemd.is_transient(name)
        ]
    found = []
    for row in scope.rows.live:
        state = units.get(str(row.unit), "not there")
        if row.unit and state not in RUNNING:
            why = f"{row.project}, {row.owner.ref} wants it, and it is {state}"
            found.append(Finding(SYSTEM, Verdict.MISSING, row.unit, why))
    unwanted = sorted(scope.made.keys() - scope.named)
    why = "no deployment names it any more: a pass stops it when its connections have ended"
    found += [Finding(SYSTEM, Verdict.LEFTOVER, name, why) for name in unwanted]
    return found + unknown(SYSTEM, strange, (), "systemctl status, systemctl stop")


def look_at_files(scope: Scope) -> list[Finding]:
    """Find files of units that no row and no table names. Whatever is in that directory is Kennel's."""
    files = UnitFiles(scope.settings.inputs_dir)
    found = []
    for entry in files.units():
        unit = re.sub(r"^\.(.*)\.new$", r"\1", entry)
        if entry != unit or (unit not in scope.named and unit not in scope.made):
            why = "files with secrets of a unit that is gone"
            path = str(scope.settings.inputs_dir / entry)
            found.append(Finding("disk", Verdict.LEFTOVER, path, why, partial(files.remove, entry)))
    return found
