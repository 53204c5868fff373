"""Valkey: servers of refs, users of a shared server, or numbered databases of one."""

import re
from pathlib import Path

from kennel_core.adapters.stateful_units import StatefulSystemd
from kennel_core.adapters.valkey import Valkey, digest
from kennel_core.audit import table
from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Verdict, unknown
from kennel_core.audit.scope import Scope
from kennel_core.provision.valkey.acl import Users
from kennel_core.provision.valkey.instance import PREFIX, SOCKET, Instances

KIND = "valkey"
USER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-[0-9a-f]{8}")
STATE = Path("/var/lib/private")  # where systemd keeps what belongs to dynamic users


def look(scope: Scope) -> list[Finding]:
    """Compare the server, or the servers, with the table."""
    maker = table.provisioner(scope, KIND)
    present = maker.present()
    found = table.compare(scope, KIND, present)
    if isinstance(maker, Instances):
        return found + _instances(scope)
    if isinstance(maker, Users):
        return found + _users(scope, maker, present)
    return found + _numbers(scope)


def _instances(scope: Scope) -> list[Finding]:
    """Find servers that no row of the table names; a socket in Kennel's directory proves whose one is."""
    home = scope.settings.runtime_dir / "valkey"
    maker = table.provisioner(scope, KIND)
    noted = {row.name for row in scope.of(KIND)}
    noted |= {maker.name(owner) for key, owner in scope.needed.items() if key[0] == KIND}  # a pass notes them
    owners = table.recovered(scope, KIND)
    with StatefulSystemd(scope.settings.bus) as systemd:
        units = [unit for unit in systemd.units() if unit.startswith(PREFIX)]
        names = {unit.removeprefix(PREFIX).removesuffix(".service"): unit for unit in units}
        argvs = {name: systemd.argv(unit) or () for name, unit in names.items() if name not in noted}
    found = []
    for name, argv in sorted(argvs.items()):
        if not argv:
            continue
        unit = f"{PREFIX}{name}.service"
        owner = owners.get(name) if str(home / name / SOCKET) in argv else None
        fix = table.adopt(KIND, name, owner, {"unit": unit}) if owner else None
        found.append(table.stray(scope, KIND, f"unit {unit}", owner, fix))
    known = noted | {name for name, argv in argvs.items() if argv}
    directories = [*_names(home), *_names(scope.settings.state_dir / "valkey"), *_names(STATE, PREFIX)]
    why = f"data of a server that is not in Kennel's table; {LOOK_YOURSELF.rpartition(': ')[2]}"
    return found + [
        Finding(KIND, Verdict.UNKNOWN, str(path), why)
        for path in sorted(directories)
        if path.name.removeprefix(PREFIX) not in known
    ]


def _names(directory: Path, prefix: str = "") -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.name.startswith(prefix)]
    except OSError:
        return []


def _users(scope: Scope, maker: Users, present: frozenset[str]) -> list[Finding]:
    """Find users that no row of the table names; a password that Kennel derived proves whose one is."""
    known = table.accounted(scope, KIND) | {
        f"user {maker.name(owner)}" for key, owner in scope.needed.items() if key[0] == KIND
    }
    strange = {part for part in present - known if USER.fullmatch(part.removeprefix("user "))}
    owners = table.recovered(scope, KIND)
    found = []
    with Valkey(scope.settings.valkey_url, scope.settings.valkey_password_file) as server:
        for part in sorted(strange):
            name = part.removeprefix("user ")
            owner = owners.get(name)
            passwords = server.password_digests(name) or frozenset()
            if owner is None or digest(maker.password(owner)) not in passwords:
                found += unknown(KIND, [part], (), f"ACL GETUSER {name}")
            else:
                found.append(
                    table.stray(scope, KIND, part, owner, table.adopt(KIND, name, owner, {"user": name}))
                )
    return found


def _numbers(scope: Scope) -> list[Finding]:
    """Mention databases in use that Kennel gave to nobody: their numbers do not say whose they are."""
    given = {0, *(row.state["db"] for row in scope.of(KIND) if "db" in row.state)}
    with Valkey(scope.settings.valkey_url, scope.settings.valkey_password_file) as server:
        used = server.used_databases()
    why = "has keys, and Kennel gave it to nobody"
    return [Finding(KIND, Verdict.INFO, f"database {number}", why) for number in sorted(used - given)]
