"""A bucket and an access key in Garage for each ref.

What is ours must be known after a crash at any step, and a bucket or key of the same name that somebody else
made must never be taken for it. Names prove nothing: an alias can be anybody's, and names of keys are not
even unique. So the id of the key is drawn at random and noted, and then that very key is made
(`ImportKey`); its secret is derived from the id, so that nothing needs to hold it. The bucket is made
together with a right for that key, in one call: a bucket of our alias is ours exactly when our key is on it.
Its id is noted as soon as it is known, and is what counts from then on.

A key belongs to one bucket and one life of it: where the bucket is gone, so is the key. Garage never
accepts the id of a deleted key again, nor a local alias again within one key.
"""

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kennel_core import derived, naming
from kennel_core.adapters import garage, s3
from kennel_core.errors import Rejected, Unavailable
from kennel_core.provision import Memory, Owner
from kennel_core.settings import Settings

PREFIX = "kennel-"
ROUNDS = 10  # of emptying a bucket that somebody still writes to
EMPTYING_S = 60.0  # of one `remove`; what is left is for the next pass

KEY, BUCKET, EMPTIER = "key", "bucket", "emptier"  # what is noted: ids


class Garage:
    """Bucket, key, right and quota for each owner."""

    kind = "garage"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = garage.Admin(settings.garage_admin, settings.garage_token_file)
        self._quotas = {"maxSize": settings.garage_max_bytes, "maxObjects": settings.garage_max_objects}

    def name(self, owner: Owner) -> str:
        """Name the bucket, and the key: a global alias, which Garage limits to 63 characters."""
        limit = naming.DNS_LABEL_MAX - len(PREFIX)
        return PREFIX + naming.resource(owner.project_id, owner.project, owner.ref, limit)

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:
        """Name the bucket and the key, with the ids that were noted."""
        name = self.name(owner)
        return frozenset(_part(kind, name, memory.state.get(kind) or "?") for kind in (BUCKET, KEY))

    def present(self) -> frozenset[str]:
        """Name every bucket and key whose name begins with ``kennel-``: two calls, side by side."""
        with ThreadPoolExecutor(1) as beside:
            keys = beside.submit(self._admin.keys)
            buckets = self._admin.buckets()
            named = [(KEY, row["name"], row["id"]) for row in keys.result()]
        named += [(BUCKET, alias, row["id"]) for row in buckets for alias in row["globalAliases"]]
        return frozenset(_part(kind, name, id_) for kind, name, id_ in named if name.startswith(PREFIX))

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Make what is missing: three calls; two where all is there.

        Raises:
            Unavailable: Garage is down, slow or has no layout.
            Rejected: a bucket of the name is somebody else's, or the token lacks a scope.
        """
        name = self.name(owner)
        bucket = self._bucket(name, memory)
        if bucket is not None:
            _note(memory, BUCKET, bucket["id"])
        elif memory.state.get(BUCKET):
            self._drop(memory, KEY)
            _note(memory, BUCKET, None)
        key_id = self._key(name, memory, KEY)
        if bucket is None:
            bucket = self._create(name, key_id, memory)
        if name not in bucket["globalAliases"]:
            self._admin.add_alias(bucket["id"], name)
        if not _may_use(bucket, key_id):
            self._admin.allow(bucket["id"], key_id)
        if bucket["quotas"] != self._quotas:
            self._admin.set_quotas(bucket["id"], self._quotas)
        self._drop(memory, EMPTIER)

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:  # noqa: ARG002 - all share it
        """Return what S3 clients read, under the names of local development too. Asks nobody."""
        key_id = memory.state[KEY]
        secret = self._secret(key_id)
        endpoint, region = self._settings.garage_s3, self._settings.garage_region
        return {
            "S3_ENDPOINT": endpoint,
            "S3_REGION": region,
            "S3_BUCKET": self.name(owner),
            "S3_ACCESS_KEY": key_id,
            "S3_SECRET_KEY": secret,
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,  # older SDKs, boto3 among them
            "AWS_ENDPOINT_URL_S3": endpoint,  # an SDK without any option then finds Garage
        }

    def remove(self, owner: Owner, memory: Memory) -> None:
        """Remove the key, the objects, unfinished uploads and the bucket.

        Raises:
            Unavailable: Garage is down or slow; or there is so much to delete that the next pass goes on.
            Rejected: the token lacks a scope.
        """
        name, key_id = self.name(owner), memory.state.get(KEY)
        bucket = self._bucket(name, memory)
        if bucket is not None:
            _note(memory, BUCKET, bucket["id"])  # once our key is gone, nothing else says that it is ours
        self._drop(memory, KEY)
        if bucket is not None:
            for other in {row["accessKeyId"] for row in bucket["keys"]} - {key_id}:
                self._admin.deny(bucket["id"], other)
            self._delete(name, bucket["id"], memory)
        if bucket_id := memory.state.get(BUCKET):
            self._admin.abort_uploads(bucket_id)  # one that began meanwhile has outlived its bucket
        self._drop(memory, EMPTIER)
        _note(memory, BUCKET, None)

    def _bucket(self, name: str, memory: Memory) -> dict[str, Any] | None:
        """Look up the bucket that is ours."""
        if bucket_id := memory.state.get(BUCKET):
            return self._admin.bucket("id", bucket_id)
        if not (key_id := memory.state.get(KEY)):
            return None
        bucket = self._admin.bucket("globalAlias", name)
        return bucket if bucket and key_id in {row["accessKeyId"] for row in bucket["keys"]} else None

    def _create(self, name: str, key_id: str, memory: Memory) -> dict[str, Any]:
        bucket = self._admin.create_bucket(name, key_id)
        if bucket is None:
            raise Rejected(
                "garage",
                f"create bucket {name}",
                "there is one of this name that Kennel did not make, and does not touch: "
                f"rename it (`garage bucket alias`, `garage bucket unalias {name}`) or delete it",
            )
        _note(memory, BUCKET, bucket["id"])
        return bucket

    def _key(self, name: str, memory: Memory, slot: str) -> str:
        """Return the id of a key that exists and has the secret that follows from its id."""
        key_id: str | None = memory.state.get(slot)
        if key_id:
            key = self._admin.key(key_id)
            if key and key["secretAccessKey"] == self._secret(key_id):
                return key_id
            if key is None and self._admin.import_key(key_id, self._secret(key_id), name):
                return key_id
            self._admin.delete_key(key_id)  # another key file's; or it came up after a call without answer
        key_id = f"GK{secrets.token_hex(12)}"
        _note(memory, slot, key_id)
        self._admin.import_key(key_id, self._secret(key_id), name)
        return key_id

    def _secret(self, key_id: str) -> str:
        return derived.password(self._settings.secret_key_file, "garage", key_id)

    def _drop(self, memory: Memory, slot: str) -> None:
        """Delete a key that was noted."""
        if key_id := memory.state.get(slot):
            self._admin.delete_key(key_id)
            _note(memory, slot, None)

    def _delete(self, name: str, bucket_id: str, memory: Memory) -> None:
        """Delete a bucket, and what is in it through a key that lives as long as this takes."""
        self._admin.abort_uploads(bucket_id)
        if self._admin.delete_bucket(bucket_id):
            return
        until = time.monotonic() + EMPTYING_S
        key_id = self._key(f"{name}~removal", memory, EMPTIER)
        self._admin.allow(bucket_id, key_id)
        endpoint, region = self._settings.garage_s3, self._settings.garage_region
        for _ in range(ROUNDS):
            s3.Bucket(endpoint, region, bucket_id, key_id, self._secret(key_id)).empty(until)
            self._admin.abort_uploads(bucket_id)
            if self._admin.delete_bucket(bucket_id):
                return
        raise Unavailable("garage", f"delete bucket {name}", "somebody still writes to it")


def _note(memory: Memory, slot: str, value: str | None) -> None:
    if memory.state.get(slot) != value:
        memory.note(**{slot: value})


def _may_use(bucket: dict[str, Any], key_id: str) -> bool:
    rights = [row["permissions"] for row in bucket["keys"] if row["accessKeyId"] == key_id]
    return any(right["read"] and right["write"] for right in rights)


def _part(kind: str, name: str, id_: str) -> str:
    return f"{kind} {name} {id_[:16]}"
