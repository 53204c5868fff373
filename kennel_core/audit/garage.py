"""Garage: buckets, and keys whose secret only this Kennel can have derived."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kennel_core import derived
from kennel_core.adapters.garage import Admin
from kennel_core.audit import table
from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Verdict
from kennel_core.audit.scope import Scope
from kennel_core.environment import Environment
from kennel_core.provision import Owner
from kennel_core.provision.garage import BUCKET, EMPTIER, KEY, PREFIX, Garage

KIND = Garage.kind
AT_ONCE = 8
ID_LENGTH = 16  # of an id, as parts name it


def look(scope: Scope) -> list[Finding]:
    """Compare the server with the table."""
    table.provisioner(scope, KIND)
    admin = Admin(scope.settings.garage_admin, scope.settings.garage_token_file)
    listed = admin.keys()
    keys = {row["id"]: row["name"] for row in listed if row["name"].startswith(PREFIX)}
    buckets = {
        row["id"]: alias
        for row in admin.buckets()
        for alias in row["globalAliases"]
        if alias.startswith(PREFIX)
    }
    noted = {row.state.get(slot) for row in scope.of(KIND) for slot in (KEY, BUCKET, EMPTIER)}
    present = {_part(KEY, id_, name) for id_, name in keys.items()}
    present |= {_part(BUCKET, id_, name) for id_, name in buckets.items()}
    strange_keys = {id_: name for id_, name in keys.items() if id_ not in noted}
    strange_buckets = {id_: name for id_, name in buckets.items() if id_ not in noted}
    return [
        *table.compare(scope, KIND, present),
        *_strays(scope, admin, strange_keys, strange_buckets),
    ]


def _strays(scope: Scope, admin: Admin, keys: dict[str, str], buckets: dict[str, str]) -> list[Finding]:
    """Prove what can be proved: a key by its secret, a bucket by the key that is on it."""
    if not keys and not buckets:
        return []

    def is_ours(key_id: str) -> bool:
        key = admin.key(key_id)
        secret = derived.password(scope.settings.secret_key_file, KIND, key_id)
        return key is not None and key["secretAccessKey"] == secret

    def details(bucket_id: str) -> dict[str, Any]:
        return admin.bucket("id", bucket_id) or {"keys": []}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ours = {id_ for id_, yes in zip(keys, pool.map(is_ours, keys), strict=True) if yes}
        on = {
            id_: {row["accessKeyId"] for row in bucket["keys"]} & ours
            for id_, bucket in zip(buckets, pool.map(details, buckets), strict=True)
        }
    owners = table.recovered(scope, KIND)
    found = []
    for id_, name in sorted(buckets.items(), key=lambda item: item[1]):
        key_id = min(on[id_], default=None)
        owner = _owner(owners, name, id_) if key_id else None
        fix = table.adopt(KIND, name, owner, {BUCKET: id_, KEY: key_id}) if owner else None
        found.append(table.stray(scope, KIND, _part(BUCKET, id_, name), owner, fix))
    with_bucket = {key_id for some in on.values() for key_id in some}
    return found + [
        _stray_key(admin, name, id_, ours=id_ in ours, has_bucket=id_ in with_bucket)
        for id_, name in sorted(keys.items(), key=lambda item: item[1])
    ]


def _stray_key(admin: Admin, name: str, id_: str, *, ours: bool, has_bucket: bool) -> Finding:
    part = _part(KEY, id_, name)
    if not ours:
        return Finding(KIND, Verdict.UNKNOWN, part, LOOK_YOURSELF)
    if has_bucket:
        return Finding(
            KIND, Verdict.LEFTOVER, part, "its secret is Kennel's; it goes with its bucket", _nothing
        )
    why = "its secret is Kennel's, and it is nobody's key"
    return Finding(KIND, Verdict.LEFTOVER, part, why, lambda: admin.delete_key(id_))


def _nothing() -> None:
    """Leave it to the fix of its bucket."""


def _owner(owners: dict[str, Owner], name: str, id_: str) -> Owner:
    """Give the owner of a name; whose project is gone is not known, and keeps its data until confirmed."""
    unknown = Owner(0, "", id_, Environment.PROD)
    return owners.get(name, unknown)


def _part(kind: str, id_: str, name: str) -> str:
    return f"{kind} {name} {id_[:ID_LENGTH]}"
