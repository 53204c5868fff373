"""Buckets and keys on a real Garage, used by an S3 client that is not ours."""

import contextlib
import functools
import http.client
import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter

from kennel_core import projects
from kennel_core.adapters import garage as api
from kennel_core.adapters import s3
from kennel_core.adapters.garage import SCOPES, Admin
from kennel_core.environment import Environment
from kennel_core.errors import Rejected, Unavailable
from kennel_core.provision import Owner
from kennel_core.provision import garage as provision
from kennel_core.provision.garage import Garage
from kennel_core.settings import Settings
from tests.servers.garage import GarageServer
from tests.servers.ports import free_port
from tests.servers.upstream import reply, upstream
from tests.waiting import until

IDS = itertools.count(1)
SERVICE = "api"
ODD_NAMES = (
    "plain", "a b", "a+b", "%41", "ü/ÿ", "a//b", "/a", "a/", "]]>&<\"'", " first", "last ", "\x01",
    "a//\x1fb", "a/..\x02/c", "\t", "a\r\nb", "\u2028", "~", "*?#", "x" * 471,
)  # fmt: skip


class Crash(BaseException):
    """The process ended here."""


class Notes:
    """What is remembered, and what a crash cannot take away."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def note(self, **changes: Any) -> None:
        self.state = {**self.state, **changes}


class Crasher:
    """Ends the process before or after its n-th call to another system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls = itertools.count(1)
        self._number = 0
        self._after = False
        send = HTTPAdapter.send

        def sent(*args: Any, **kwargs: Any) -> requests.Response:
            crashes = next(self._calls) == self._number
            if crashes and not self._after:
                raise Crash
            response = send(*args, **kwargs)
            if crashes:
                raise Crash
            return response

        monkeypatch.setattr(HTTPAdapter, "send", sent)

    def crashes(self, number: int, act: Callable[[], object], *, after: bool) -> bool:
        """Act until the call of that number; False when there are not so many."""
        self._calls, self._number, self._after = itertools.count(1), number, after
        try:
            act()
        except Crash:
            return True
        finally:
            self._number = 0
        return False


def client(variables: Mapping[str, str]) -> Any:
    """Give an application's S3 client."""
    return _client(variables["S3_ENDPOINT"], variables["S3_ACCESS_KEY"], variables["S3_SECRET_KEY"])


@functools.lru_cache(maxsize=64)  # one takes 30 ms to make
def _client(endpoint: str, key_id: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="garage",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def new_owner(ref: str = "main") -> Owner:
    return Owner(next(IDS), "shop", ref, Environment.DEV, (SERVICE,))


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        act()
    return str(caught.value.response["Error"]["Code"])


class World:
    """A Garage, Kennel's provisioner for it, and what a test asks of both."""

    def __init__(self, server: GarageServer, settings: Settings) -> None:
        self.server = server
        self.settings = server.settings(settings)
        if not self.settings.secret_key_file.exists():
            projects.create_secret_key(self.settings.secret_key_file)
        self.kennel = Garage(self.settings)

    def made(self, owner: Owner | None = None) -> tuple[Owner, Notes]:
        owner, notes = owner or new_owner(), Notes()
        self.kennel.ensure(owner, notes)
        return owner, notes

    def variables(self, owner: Owner, notes: Notes) -> dict[str, str]:
        return self.kennel.variables(owner, notes, SERVICE)

    def put(self, owner: Owner, notes: Notes, *names: str) -> None:
        variables = self.variables(owner, notes)
        for name in names:
            client(variables).put_object(Bucket=variables["S3_BUCKET"], Key=name, Body=b"content")

    def start_upload(self, owner: Owner, notes: Notes) -> None:
        """Begin an upload that never ends."""
        variables = self.variables(owner, notes)
        bucket = {"Bucket": variables["S3_BUCKET"], "Key": "unfinished"}
        upload = client(variables).create_multipart_upload(**bucket)["UploadId"]
        client(variables).upload_part(**bucket, UploadId=upload, PartNumber=1, Body=b"part")

    def works(self, owner: Owner, notes: Notes) -> bool:
        """Tell whether the application can write and read."""
        self.put(owner, notes, "works")
        variables = self.variables(owner, notes)
        got = client(variables).get_object(Bucket=variables["S3_BUCKET"], Key="works")
        return bool(got["Body"].read() == b"content")

    def whole(self, owner: Owner, notes: Notes) -> bool:
        """Tell whether every part is there."""
        return self.kennel.parts(owner, notes) <= self.kennel.present()

    def buckets(self, name: str) -> list[str]:
        return [row["id"] for row in self.server.root("ListBuckets") if name in row["globalAliases"]]

    def keys(self, name: str) -> list[str]:
        """Give the ids of all keys that were made for the name, to remove its bucket included."""
        return [row["id"] for row in self.server.root("ListKeys") if row["name"].startswith(name)]

    def left(self, owner: Owner, bucket_id: str | None = None) -> list[str]:
        """Give all there still is of the owner."""
        name = self.kennel.name(owner)
        left = self.buckets(name) + self.keys(name)
        if bucket_id:
            body = {"bucketId": bucket_id, "olderThanSecs": 0}
            left += ["upload"] * self.server.root("CleanupIncompleteUploads", body)["uploadsDeleted"]
        return left

    def info(self, notes: Notes) -> Any:
        return self.server.root("GetBucketInfo", id=notes.state["bucket"])


@pytest.fixture
def world(garage_server: GarageServer, settings: Settings) -> World:
    return World(garage_server, settings)


@pytest.fixture
def crasher(monkeypatch: pytest.MonkeyPatch) -> Crasher:
    return Crasher(monkeypatch)


# --- what an application has --------------------------------------------------------------------------------


def test_an_application_reads_and_writes_its_bucket(world: World) -> None:
    owner, notes = world.made()
    variables = world.variables(owner, notes)
    app, bucket = client(variables), variables["S3_BUCKET"]

    app.put_object(Bucket=bucket, Key="hello", Body=b"world")
    app.upload_fileobj(_Zeros(9 * 1024**2), bucket, "large")  # in parts

    assert app.get_object(Bucket=bucket, Key="hello")["Body"].read() == b"world"
    assert app.head_object(Bucket=bucket, Key="large")["ContentLength"] == 9 * 1024**2
    assert [row["Name"] for row in app.list_buckets()["Buckets"]] == [bucket]
    link = app.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "hello"})
    assert requests.get(link, timeout=20).content == b"world"


def test_an_application_without_any_option_finds_its_bucket(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    owner, notes = world.made()
    for name, value in world.variables(owner, notes).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    app = boto3.session.Session().client("s3")

    app.put_object(Bucket=world.kennel.name(owner), Key="hello", Body=b"world")


def test_an_application_can_neither_see_other_buckets_nor_make_or_delete_any(world: World) -> None:
    owner, notes = world.made()
    other, others_notes = world.made(Owner(owner.project_id, "shop", "pr-1", Environment.PREVIEW))
    world.put(other, others_notes, "secret")
    app, foreign = client(world.variables(owner, notes)), world.kennel.name(other)

    assert refused(lambda: app.get_object(Bucket=foreign, Key="secret")) == "AccessDenied"
    assert refused(lambda: app.list_objects_v2(Bucket=foreign)) == "AccessDenied"
    assert refused(lambda: app.create_bucket(Bucket="kennel-mine")) == "AccessDenied"
    assert refused(lambda: app.delete_bucket(Bucket=world.kennel.name(owner))) == "AccessDenied"


def test_an_application_above_its_quota_is_refused_and_its_bucket_can_be_removed(
    world: World, settings: Settings
) -> None:
    small = World(world.server, settings.model_copy(update={"garage_max_bytes": 10, "garage_max_objects": 2}))
    owner, notes = small.made()
    small.put(owner, notes, "one")

    assert refused(lambda: small.put(owner, notes, "two")) == "AccessDenied"
    assert small.info(notes)["quotas"] == {"maxSize": 10, "maxObjects": 2}
    small.kennel.remove(owner, notes)
    assert not small.left(owner)


# --- ensure -------------------------------------------------------------------------------------------------


def test_nothing_changes_where_all_is_there(world: World) -> None:
    owner, notes = world.made()
    before, variables = notes.state, world.variables(owner, notes)

    world.kennel.ensure(owner, notes)

    assert (notes.state, world.variables(owner, notes)) == (before, variables)
    assert world.whole(owner, notes)


def test_what_is_remembered_holds_no_secret(world: World) -> None:
    owner, notes = world.made()

    assert world.variables(owner, notes)["S3_SECRET_KEY"] not in str(notes.state)
    assert set(notes.state) <= {"key", "bucket", "emptier"}


def test_parts_are_missing_until_they_are_made_and_after_they_are_removed(world: World) -> None:
    owner, notes = new_owner(), Notes()
    assert not world.kennel.parts(owner, notes) & world.kennel.present()

    world.kennel.ensure(owner, notes)
    parts = world.kennel.parts(owner, notes)
    assert parts <= world.kennel.present()
    assert all(world.kennel.name(owner) in part for part in parts)

    world.kennel.remove(owner, notes)
    assert not parts & world.kennel.present()


def test_long_and_similar_refs_have_buckets_of_their_own(world: World) -> None:
    stem = "feature/" + "x" * 150
    owners = [Owner(next(IDS), "shop" * 20, ref, Environment.DEV) for ref in (stem, f"{stem}y", "a/b", "a-b")]
    owners.append(Owner(next(IDS), "Ünïcode", "ß", Environment.DEV))

    for owner in owners:
        assert world.works(*world.made(owner))
    assert len({world.kennel.name(owner) for owner in owners}) == len(owners)


def test_a_key_deleted_by_hand_is_replaced_and_the_objects_stay(world: World) -> None:
    owner, notes = world.made()
    world.put(owner, notes, "kept")
    before = world.variables(owner, notes)
    world.server.root("DeleteKey", {}, id=before["S3_ACCESS_KEY"])
    assert not world.whole(owner, notes)

    world.kennel.ensure(owner, notes)

    after = world.variables(owner, notes)
    assert world.whole(owner, notes)
    assert after["S3_ACCESS_KEY"] != before["S3_ACCESS_KEY"]
    assert client(after).get_object(Bucket=after["S3_BUCKET"], Key="kept")["Body"].read() == b"content"


def test_a_bucket_deleted_by_hand_is_made_again(world: World) -> None:
    owner, notes = world.made()
    world.server.root("DeleteBucket", {}, id=notes.state["bucket"])
    assert not world.whole(owner, notes)

    world.kennel.ensure(owner, notes)

    assert world.works(owner, notes)
    assert len(world.keys(world.kennel.name(owner))) == 1


def test_rights_quota_and_name_are_put_right(world: World) -> None:
    owner, notes = world.made()
    name, bucket, key = world.kennel.name(owner), notes.state["bucket"], notes.state["key"]
    body = {"bucketId": bucket, "accessKeyId": key, "permissions": {"write": True}}
    world.server.root("DenyBucketKey", body)
    world.server.root("UpdateBucket", {"quotas": {"maxSize": 1, "maxObjects": 1}}, id=bucket)
    world.server.root("RemoveBucketAlias", {"bucketId": bucket, "globalAlias": name})
    assert not world.whole(owner, notes)

    world.kennel.ensure(owner, notes)

    assert world.whole(owner, notes)
    assert world.works(owner, notes)
    assert world.info(notes)["quotas"]["maxSize"] == world.settings.garage_max_bytes
    assert notes.state == {"key": key, "bucket": bucket}


def test_another_key_file_gives_another_key(world: World) -> None:
    owner, notes = world.made()
    before = notes.state["key"]
    world.settings.secret_key_file.chmod(0o600)
    world.settings.secret_key_file.write_text(secrets.token_hex(32))

    world.kennel.ensure(owner, notes)

    assert world.works(owner, notes)
    assert world.keys(world.kennel.name(owner)) != [before]
    assert len(world.keys(world.kennel.name(owner))) == 1


def test_many_owners_at_once(world: World) -> None:
    owners = [(new_owner(), Notes()) for _ in range(8)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pair: world.kennel.ensure(*pair), owners))
        assert all(threads.map(lambda pair: world.works(*pair), owners))
        list(threads.map(lambda pair: world.kennel.remove(*pair), owners))

    assert not [left for owner, _ in owners for left in world.left(owner)]


# --- what somebody else made --------------------------------------------------------------------------------


def test_a_bucket_of_the_name_that_somebody_else_made_is_not_touched(world: World) -> None:
    owner, notes = new_owner(), Notes()
    name = world.kennel.name(owner)
    foreign = world.server.root("CreateBucket", {"globalAlias": name})

    for _ in range(2):
        with pytest.raises(Rejected, match=f"{name}.*Kennel did not make.*garage bucket unalias"):
            world.kennel.ensure(owner, notes)
    assert not world.whole(owner, notes)
    world.kennel.remove(owner, notes)

    assert world.server.root("GetBucketInfo", id=foreign["id"]) == foreign
    assert world.left(owner) == [foreign["id"]]


def test_a_bucket_that_took_over_the_name_is_not_touched(world: World) -> None:
    owner, notes = world.made()
    name = world.kennel.name(owner)
    world.server.root("DeleteBucket", {}, id=notes.state["bucket"])
    foreign = world.server.root("CreateBucket", {"globalAlias": name})

    assert not world.whole(owner, notes)
    with pytest.raises(Rejected, match="Kennel did not make"):
        world.kennel.ensure(owner, notes)
    world.kennel.remove(owner, notes)

    assert world.server.root("GetBucketInfo", id=foreign["id"]) == foreign


def test_a_key_of_the_name_that_somebody_else_made_is_not_touched(world: World) -> None:
    owner = new_owner()
    foreign = world.server.root("CreateKey", {"name": world.kennel.name(owner)})["accessKeyId"]

    _, notes = world.made(owner)
    assert world.works(owner, notes)
    assert notes.state["key"] != foreign
    world.kennel.remove(owner, notes)

    assert world.left(owner) == [foreign]


def test_a_listing_of_many_pages_is_read_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [world.made() for _ in range(5)]
    whole = world.kennel.present()

    monkeypatch.setattr(api, "PAGE", 4)

    assert world.kennel.present() == whole
    assert all(world.whole(*pair) for pair in made)


# --- crashes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_of_ensure_is_made_good(world: World, crasher: Crasher, *, after: bool) -> None:
    for call in itertools.count(1):
        owner, notes = new_owner(), Notes()
        crashed = crasher.crashes(call, lambda: world.kennel.ensure(owner, notes), after=after)  # noqa: B023

        world.kennel.ensure(owner, notes)

        assert world.works(owner, notes)
        assert len(world.left(owner)) == 2
        assert world.info(notes)["quotas"]["maxObjects"] == world.settings.garage_max_objects
        if not crashed:
            break
    assert call > 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_call_of_ensure_leaves_nothing_to_remove(
    world: World, crasher: Crasher, *, after: bool
) -> None:
    for call in itertools.count(1):
        owner, notes = new_owner(), Notes()
        crashed = crasher.crashes(call, lambda: world.kennel.ensure(owner, notes), after=after)  # noqa: B023

        world.kennel.remove(owner, notes)

        assert not world.left(owner)
        if not crashed:
            break


@pytest.mark.parametrize(("after", "then"), [(False, "remove"), (True, "remove"), (True, "ensure")])
def test_a_crash_at_any_call_of_remove_is_made_good(
    world: World, crasher: Crasher, then: str, *, after: bool
) -> None:
    for call in itertools.count(1):
        owner, notes = world.made()
        bucket = notes.state["bucket"]
        world.put(owner, notes, "one", "\x01")
        world.start_upload(owner, notes)
        crashed = crasher.crashes(call, lambda: world.kennel.remove(owner, notes), after=after)  # noqa: B023

        if then == "ensure":
            world.kennel.ensure(owner, notes)
            assert world.works(owner, notes)
            assert len(world.left(owner)) == 2
        world.kennel.remove(owner, notes)

        assert not world.left(owner, bucket)
        if not crashed:
            break
    assert call > 10


def test_a_key_file_that_changed_does_not_lose_a_bucket_that_is_not_noted_yet(
    world: World, crasher: Crasher
) -> None:
    owner, notes = new_owner(), Notes()
    assert crasher.crashes(2, lambda: world.kennel.ensure(owner, notes), after=True)
    world.settings.secret_key_file.chmod(0o600)
    world.settings.secret_key_file.write_text(secrets.token_hex(32))

    for call in itertools.count(1):
        if not crasher.crashes(call, lambda: world.kennel.ensure(owner, notes), after=True):
            break

    assert world.works(owner, notes)
    assert len(world.left(owner)) == 2


# --- remove -------------------------------------------------------------------------------------------------


def test_removing_what_was_never_made_or_is_gone_is_quiet(world: World) -> None:
    world.kennel.remove(new_owner(), Notes())
    owner, notes = world.made()

    world.kennel.remove(owner, notes)
    world.kennel.remove(owner, notes)

    assert not world.left(owner)


def test_what_was_removed_can_be_made_again(world: World) -> None:
    owner, notes = world.made()
    world.put(owner, notes, "old")
    world.kennel.remove(owner, notes)

    world.kennel.ensure(owner, notes)

    variables = world.variables(owner, notes)
    assert client(variables).list_objects_v2(Bucket=variables["S3_BUCKET"])["KeyCount"] == 0


def test_a_bucket_goes_with_objects_of_any_name_and_unfinished_uploads(world: World) -> None:
    owner, notes = world.made()
    bucket = notes.state["bucket"]
    world.put(owner, notes, *ODD_NAMES)
    world.start_upload(owner, notes)
    assert world.info(notes)["objects"] == len(ODD_NAMES)

    world.kennel.remove(owner, notes)

    assert not world.left(owner, bucket)


def test_an_object_that_garage_fails_to_delete_is_named_and_goes_with_the_next_pass(world: World) -> None:
    owner, notes = world.made()
    world.put(
        owner, notes, "x" * 479, "one"
    )  # from 472 bytes on, LMDB has no room for the deletion's own note

    with pytest.raises(Unavailable, match=r"s3: DeleteObjects: 'x{100}' and maybe more: .*MDB_BAD_VALSIZE"):
        world.kennel.remove(owner, notes)
    assert world.buckets(world.kennel.name(owner)) == [notes.state["bucket"]]
    world.kennel.remove(owner, notes)

    assert not world.left(owner)


def test_a_bucket_of_ten_thousand_objects_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "EMPTYING_S", 600)  # however busy the machine is
    owner, notes = world.made()
    _fill(world.variables(owner, notes), 10_000)
    until(lambda: world.info(notes)["objects"] == 10_000, what="all are counted")

    world.kennel.remove(owner, notes)

    assert not world.left(owner)


def test_a_bucket_with_too_much_for_one_pass_goes_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, notes = world.made()
    world.put(owner, notes, "one")

    with monkeypatch.context() as patch:
        patch.setattr(provision, "EMPTYING_S", -1)
        with pytest.raises(Unavailable, match="the next pass goes on"):
            world.kennel.remove(owner, notes)
    world.kennel.remove(owner, notes)

    assert not world.left(owner)


def test_a_bucket_that_is_still_written_to_goes(world: World) -> None:
    owner, notes = world.made()
    variables = world.variables(owner, notes)
    operator = world.server.root("CreateKey", {"name": "operator"})
    body = {"bucketId": notes.state["bucket"], "accessKeyId": operator["accessKeyId"]}
    world.server.root("AllowBucketKey", {**body, "permissions": {"read": True, "write": True}})
    theirs = {"S3_ACCESS_KEY": operator["accessKeyId"], "S3_SECRET_KEY": operator["secretAccessKey"]}
    started = threading.Barrier(3)

    def write(access: Mapping[str, str]) -> str:
        app = client(access)
        started.wait(20)
        for number in itertools.count():
            try:
                app.put_object(Bucket=variables["S3_BUCKET"], Key=f"{id(app)}-{number}", Body=b"")
            except ClientError as exc:
                return str(exc.response["Error"]["Code"])
        raise AssertionError

    with ThreadPoolExecutor(2) as threads:
        writers = [threads.submit(write, access) for access in (variables, {**variables, **theirs})]
        started.wait(20)
        until(lambda: world.info(notes)["objects"] > 1, what="something is written")
        world.kennel.remove(owner, notes)

    assert {writer.result() for writer in writers} <= {"AccessDenied", "NoSuchBucket"}
    assert not world.left(owner)
    assert operator["accessKeyId"] in [row["id"] for row in world.server.root("ListKeys")]


# --- a Garage that is not well ------------------------------------------------------------------------------


def test_a_garage_without_a_layout_says_what_to_do(own_garage: GarageServer, settings: Settings) -> None:
    own_garage.token_file.write_text(own_garage.root_token)  # it can store no other
    own_garage.start(layout=False)
    world = World(own_garage, settings)

    with pytest.raises(Unavailable, match="garage layout assign"):
        world.made()
    with pytest.raises(Unavailable, match="garage layout assign"):
        world.kennel.present()


def test_a_garage_that_is_down_or_restarted(own_garage: GarageServer, settings: Settings) -> None:
    own_garage.start()
    world = World(own_garage, settings)
    owner, notes = world.made()
    state = notes.state
    own_garage.kill()

    for act in (world.kennel.ensure, world.kennel.remove):
        with pytest.raises(Unavailable, match=r"cannot reach http://127.0.0.1:\d+: .*does it run\?"):
            act(owner, notes)
    with pytest.raises(Unavailable, match="does it run"):
        world.kennel.present()
    assert notes.state == state

    own_garage.start()
    assert world.whole(owner, notes)
    assert world.works(owner, notes)


def test_a_garage_that_freezes_in_the_middle(own_garage: GarageServer, settings: Settings) -> None:
    own_garage.start()
    world = World(own_garage, settings)
    world.kennel._admin = Admin(own_garage.admin, own_garage.token_file, timeout=0.3)
    owner, notes = new_owner(), Notes()

    own_garage.freeze()
    with pytest.raises(Unavailable, match=r"no answer from .* within 0.3 s"):
        world.kennel.ensure(owner, notes)
    own_garage.thaw()  # and it makes the key after all
    world.kennel._admin = Admin(own_garage.admin, own_garage.token_file)
    world.kennel.ensure(owner, notes)

    assert world.works(owner, notes)
    until(lambda: len(world.left(owner)) == 2, what="one bucket and one key")
    world.kennel.remove(owner, notes)
    assert not world.left(owner)


ANSWERS = {
    "a page of a proxy": (502, b"<html><body>Bad Gateway</body></html>"),
    "a page that says all is well": (200, b"<html>Welcome</html>"),
    "JSON of something else": (404, b'{"error": "no such route"}'),
    "a redirect": (302, b""),
    "no quorum": (503, b'{"code": "ServiceUnavailable", "message": "no quorum"}'),
    "too many": (429, b'{"code": "SlowDown", "message": "slow down"}'),
}


@pytest.fixture(params=ANSWERS.values(), ids=ANSWERS.keys())
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something else at Garage's address; gives its URL."""
    status, body = request.param

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        reply(handler, body, status=status)

    with upstream(answer) as port:
        yield f"http://127.0.0.1:{port}"


def test_another_answer_is_not_taken_for_garages(world: World, stranger: str) -> None:
    world.kennel._admin = Admin(stranger, world.server.token_file)

    with pytest.raises(Unavailable, match="garage: ImportKey: "):
        world.made()
    with pytest.raises(Unavailable, match="garage: List"):
        world.kennel.present()


def test_another_answer_than_s3s_stops_the_removal_and_the_next_one_ends_it(
    world: World, stranger: str
) -> None:
    owner, notes = world.made()
    world.put(owner, notes, "one")
    elsewhere = world.settings.model_copy(update={"garage_s3": stranger})

    with pytest.raises(Unavailable, match="s3: ListObjectsV2: "):
        Garage(elsewhere).remove(owner, notes)
    assert world.info(notes)["objects"] == 1
    world.kennel.remove(owner, notes)

    assert not world.left(owner)


def test_an_s3_that_is_down_or_silent_or_refuses_is_told_apart(world: World) -> None:
    owner, notes = world.made()
    variables = world.variables(owner, notes)
    place = {"region": "garage", "name": variables["S3_BUCKET"], "key_id": variables["S3_ACCESS_KEY"]}

    with pytest.raises(Unavailable, match="does it run"):
        s3.Bucket(f"http://127.0.0.1:{free_port()}", secret="x" * 20, **place).empty(float("inf"))
    with pytest.raises(Rejected, match="403 AccessDenied"):
        s3.Bucket(world.server.s3, secret="x" * 20, **place).empty(float("inf"))
    hold = threading.Event()
    with upstream(lambda _handler: hold.wait(20)) as port:
        silent = s3.Bucket(f"http://127.0.0.1:{port}", secret="x" * 20, timeout=0.3, **place)
        with pytest.raises(Unavailable, match=r"within 0\.3 s"):
            silent.empty(float("inf"))
        hold.set()


# --- tokens -------------------------------------------------------------------------------------------------


def test_the_scopes_that_are_asked_for_are_enough(world: World) -> None:
    assert Admin(world.server.admin, world.server.token_file).missing_scopes() == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_without_a_scope_is_refused_with_its_name(world: World, tmp_path: Path, scope: str) -> None:
    file = tmp_path / "token"
    file.write_text(world.server.token(*(name for name in SCOPES if name != scope)))
    admin = Admin(world.server.admin, file)
    key, bucket = f"GK{secrets.token_hex(12)}", secrets.token_hex(32)
    calls: dict[str, Callable[[], object]] = {
        "ListBuckets": admin.buckets,
        "ListKeys": admin.keys,
        "GetBucketInfo": lambda: admin.bucket("id", bucket),
        "CreateBucket": lambda: admin.create_bucket("kennel-x", key),
        "UpdateBucket": lambda: admin.set_quotas(bucket, {"maxSize": 1}),
        "DeleteBucket": lambda: admin.delete_bucket(bucket),
        "AddBucketAlias": lambda: admin.add_alias(bucket, "kennel-x"),
        "CleanupIncompleteUploads": lambda: admin.abort_uploads(bucket),
        "AllowBucketKey": lambda: admin.allow(bucket, key),
        "DenyBucketKey": lambda: admin.deny(bucket, key),
        "GetKeyInfo": lambda: admin.key(key),
        "ImportKey": lambda: admin.import_key(key, "x" * 16, "x"),
        "DeleteKey": lambda: admin.delete_key(key),
    }

    assert admin.missing_scopes() == [scope]
    with pytest.raises(Rejected, match=f"lacks the scope {scope}: "):
        calls[scope]()


def test_a_wrong_token_is_told_from_one_without_a_scope(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789ab.wrong-wrong-wrong")

    with pytest.raises(Rejected, match=r"wrong, revoked or expired: .*garage admin-token create") as caught:
        Admin(world.server.admin, file).keys()
    assert "wrong-wrong" not in str(caught.value)
    with pytest.raises(Rejected, match="No such file"):
        Admin(world.server.admin, tmp_path / "none").keys()
    with pytest.raises(Rejected, match="KENNEL_GARAGE_TOKEN_FILE"):
        Admin(world.server.admin, None).keys()


def test_a_new_token_is_used_without_a_restart(world: World, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789ab.revoked")
    admin = Admin(world.server.admin, file)
    with pytest.raises(Rejected):
        admin.keys()

    file.write_text(world.server.token(*SCOPES) + "\n")

    assert isinstance(admin.keys(), list)


class _Zeros:
    """A file of zeros."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, amount: int = -1) -> bytes:
        given = self._left if amount < 0 else min(amount, self._left)
        self._left -= given
        return bytes(given)


def _fill(variables: Mapping[str, str], objects: int) -> None:
    """Write empty objects, with less of the CPU than the client takes."""
    app, host = client(variables), variables["S3_ENDPOINT"].removeprefix("http://")

    def put(numbers: range) -> None:
        with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            for number in numbers:
                place = {"Bucket": variables["S3_BUCKET"], "Key": f"{number:05}"}
                link = app.generate_presigned_url("put_object", place)
                connection.request("PUT", link.partition(host)[2], headers={"Content-Length": "0"})
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, [range(objects)[part::8] for part in range(8)]))
