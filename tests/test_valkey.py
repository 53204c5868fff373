"""Users and numbered databases of a shared server, on the real server."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from kennel_core import derived, projects
from kennel_core.adapters import valkey as adapter
from kennel_core.environment import Environment
from kennel_core.errors import ConfigError, Rejected, Unavailable
from kennel_core.provision import Owner, Provisioner
from kennel_core.provision.valkey import valkey
from kennel_core.settings import Settings
from tests.remembered import Remembered
from tests.servers.ports import free_port
from tests.servers.valkey import ValkeyServer
from tests.waiting import until

MAIN = Owner(7, "shop", "main", Environment.PROD, ("api",))
PREVIEW = Owner(7, "shop", "pr-3", Environment.PREVIEW, ("api",))
LONG = "feature/" + "a" * 70

# What would show or change what is everybody's.
REFUSED = (
    ("GET", "other:key"),
    ("SET", "other:key", "1"),
    ("COPY", "{prefix}a", "other:key"),
    ("RENAME", "{prefix}a", "other:key"),
    ("EVAL", "return redis.call('get', 'other:key')", "0"),
    ("PUBLISH", "other:news", "x"),
    ("SUBSCRIBE", "other:news"),
    ("PSUBSCRIBE", "*"),
    ("PUBSUB", "CHANNELS"),
    ("SCAN", "0"),
    ("KEYS", "*"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("SORT", "{prefix}a", "BY", "other:*"),
    ("SELECT", "1"),
    ("SWAPDB", "0", "1"),
    ("MOVE", "{prefix}a", "1"),
    ("FLUSHDB",),
    ("FLUSHALL",),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("FUNCTION", "LIST"),
    ("FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('x', function() return 1 end)"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "TRACKING", "ON", "BCAST"),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "default", "nopass"),
    ("MONITOR",),
    ("SHUTDOWN",),
    ("REPLICAOF", "NO", "ONE"),
    ("SAVE",),
)

Make = Callable[..., Provisioner]


@pytest.fixture
def make(settings: Settings, shared_valkey: ValkeyServer) -> Make:
    """Makes a provisioner for the test's server."""
    projects.create_secret_key(settings.secret_key_file)

    def new(mode: str, taken: Callable[[], set[int]] = set, **changes: object) -> Provisioner:
        update = {"valkey": mode, "valkey_url": shared_valkey.unix, **changes}
        return valkey(settings.model_copy(update=update), taken)

    return new


def connected(users: Provisioner, owner: Owner, memory: Remembered) -> redis.Redis:
    address = users.variables(owner, memory, "api")["REDIS_URL"]
    return redis.Redis.from_url(address, decode_responses=True, socket_timeout=5)


def made(users: Provisioner, owner: Owner) -> Remembered:
    memory = Remembered()
    users.ensure(owner, memory)
    return memory


# --- users


@pytest.mark.parametrize("address", ["unix", "tcp"])
def test_a_user_may_do_anything_below_its_prefix(
    make: Make, shared_valkey: ValkeyServer, address: str
) -> None:
    users = make("acl", valkey_url=getattr(shared_valkey, address))
    memory = made(users, MAIN)

    prefix = users.variables(MAIN, memory, "api")["VALKEY_PREFIX"]

    assert prefix == f"{users.name(MAIN)}:"
    with connected(users, MAIN, memory) as client:
        client.set(f"{prefix}a", "1", ex=60)
        client.hset(f"{prefix}b", mapping={"x": "y"})
        client.lpush(f"{prefix}queue", "job")
        assert client.blpop(f"{prefix}queue", 1) == (f"{prefix}queue", "job")
        assert client.register_script("return redis.call('get', KEYS[1])")(keys=[f"{prefix}a"]) == "1"
        with client.pipeline() as pipe:
            pipe.watch(f"{prefix}a")
            assert pipe.get(f"{prefix}a") == "1"
            pipe.multi()
            pipe.incr(f"{prefix}a")
            assert pipe.execute() == [2]
        listener = client.pubsub()
        listener.subscribe(f"{prefix}news")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        client.publish(f"{prefix}news", "hello")
        assert listener.get_message(timeout=5)["data"] == "hello"
        listener.close()
        assert client.info("server")["redis_version"]
        assert list(client.hscan_iter(f"{prefix}b")) == [("x", "y")]


def test_a_user_may_see_and_change_nothing_of_others(make: Make, shared_valkey: ValkeyServer) -> None:
    users = make("acl")
    memory = made(users, MAIN)
    with shared_valkey.client() as root:
        root.set("other:key", "secret")
    prefix = users.variables(MAIN, memory, "api")["VALKEY_PREFIX"]

    with connected(users, MAIN, memory) as client:
        client.set(f"{prefix}a", "1")
        for command in REFUSED:
            with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't access"):
                client.execute_command(*(word.replace("{prefix}", prefix) for word in command))
    with shared_valkey.client() as root:
        assert root.get("other:key") == "secret"


def test_owners_have_passwords_of_their_own(make: Make) -> None:
    users = make("acl")
    first, second = (users.variables(owner, made(users, owner), "api") for owner in (MAIN, PREVIEW))

    swapped = first["REDIS_URL"].replace(users.name(MAIN), users.name(PREVIEW))

    assert first["VALKEY_PREFIX"] != second["VALKEY_PREFIX"]
    with pytest.raises(redis.AuthenticationError), redis.Redis.from_url(swapped) as client:
        client.ping()


def test_refs_whose_names_are_shortened_alike_have_users_of_their_own(make: Make) -> None:
    users = make("acl")

    names = {users.name(Owner(7, "shop", LONG + end, Environment.DEV)) for end in "ab"}

    assert len(names) == 2
    assert all(len(name) <= 63 for name in names)


def test_users_that_a_restart_forgot_are_made_again_with_the_same_password(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    users = make("acl")
    memory = made(users, MAIN)
    before = users.variables(MAIN, memory, "api")
    assert users.parts(MAIN, memory) <= users.present()

    shared_valkey.kill()
    shared_valkey.start()
    assert not users.parts(MAIN, memory) & users.present()
    users.ensure(MAIN, memory)

    assert users.parts(MAIN, memory) <= users.present()
    assert users.variables(MAIN, memory, "api") == before
    with connected(users, MAIN, memory) as client:
        assert client.ping()


def test_what_somebody_allowed_a_user_is_taken_away_again(make: Make, shared_valkey: ValkeyServer) -> None:
    users = make("acl")
    memory = made(users, MAIN)
    with shared_valkey.client() as root:
        root.execute_command("ACL", "SETUSER", users.name(MAIN), "allkeys", "nopass", "+@all")

    users.ensure(MAIN, memory)

    with connected(users, MAIN, memory) as client, pytest.raises(redis.ResponseError):
        client.get("other:key")


def test_removing_a_user_ends_its_connections_and_takes_its_keys_alone(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    users = make("acl")
    memory, others = made(users, MAIN), made(users, PREVIEW)
    prefix, other = f"{users.name(MAIN)}:", f"{users.name(PREVIEW)}:"
    with shared_valkey.client() as root, shared_valkey.client(3) as third:
        root.mset({f"{prefix}{number}": "x" for number in range(2500)})
        third.set(f"{prefix}copied", "x")  # COPY ... DB lets it get there
        root.mset({f"{other}a": "1", users.name(MAIN): "no colon", f"x{prefix}": "1"})
        with connected(users, MAIN, memory) as client:
            client.ping()
            users.remove(MAIN, memory)
            with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
                client.set(f"{prefix}late", "x")
        users.remove(MAIN, memory)

        assert sorted(root.keys("*")) == sorted([f"{other}a", users.name(MAIN), f"x{prefix}"])
        assert third.dbsize() == 0
        assert root.acl_getuser(users.name(MAIN)) is None
    assert not users.parts(MAIN, memory) & users.present()
    assert users.parts(PREVIEW, others) <= users.present()


def test_a_user_that_somebody_else_made_is_neither_adopted_nor_removed(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    users = make("acl")
    memory = Remembered()
    with shared_valkey.client() as root:
        root.execute_command("ACL", "SETUSER", users.name(MAIN), "on", ">theirs", "~*", "+get")
        root.set(f"{users.name(MAIN)}:theirs", "1")
        before = root.execute_command("ACL", "LIST")

        with pytest.raises(Rejected, match="somebody else made a user of this name"):
            users.ensure(MAIN, memory)
        users.remove(MAIN, memory)

        assert root.execute_command("ACL", "LIST") == before
        assert root.get(f"{users.name(MAIN)}:theirs") == "1"
    assert memory.state == {}


def test_a_user_is_known_by_its_password_when_the_database_came_from_a_backup(make: Make) -> None:
    users = make("acl")
    made(users, MAIN)

    memory = made(users, MAIN)

    assert memory.state == {"user": users.name(MAIN)}


def test_a_user_that_was_shut_out_when_its_removal_broke_off_is_let_in_again(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    users = make("acl")
    memory = made(users, MAIN)
    with adapter.Valkey(shared_valkey.unix) as server:
        server.shut_out(users.name(MAIN))

    assert not users.parts(MAIN, memory) <= users.present()
    users.ensure(MAIN, memory)

    with connected(users, MAIN, memory) as client:
        assert client.ping()


def test_no_password_reaches_the_server_in_the_clear(make: Make, shared_valkey: ValkeyServer) -> None:
    users = make("acl")
    with shared_valkey.client() as watcher, watcher.monitor() as monitor:
        memory = made(users, MAIN)
        secret = redis.connection.parse_url(users.variables(MAIN, memory, "api")["REDIS_URL"])["password"]
        with shared_valkey.client() as root:
            root.ping()
        seen = []
        while "PING" not in (seen or [""])[-1]:
            seen.append(monitor.next_command()["command"])

    assert len(secret) == 43
    assert secret not in str(seen)


# --- numbered databases


def test_owners_get_the_lowest_numbers_that_nobody_has(make: Make, shared_valkey: ValkeyServer) -> None:
    with shared_valkey.client(2) as somebody:
        somebody.set("a", "1")
    memories = [Remembered(db=1), Remembered()]
    databases = make("db", lambda: {memory.state["db"] for memory in memories if memory.state})

    databases.ensure(MAIN, memories[1])
    databases.ensure(MAIN, memories[1])

    assert memories[1].state == {"db": 3}
    assert databases.parts(MAIN, memories[1]) <= databases.present()
    assert databases.variables(MAIN, memories[1], "api") == {
        "VALKEY_URL": f"redis+unix://{shared_valkey.socket}?db=3",
        "REDIS_URL": f"unix://{shared_valkey.socket}?db=3",
    }
    with connected(databases, MAIN, memories[1]) as client, shared_valkey.client(3) as third:
        client.set("a", "mine")
        assert third.get("a") == "mine"


def test_an_owner_without_a_number_lacks_a_part(make: Make) -> None:
    databases = make("db")

    assert not databases.parts(MAIN, Remembered()) <= databases.present()


def test_owners_that_choose_at_once_get_different_numbers(make: Make) -> None:
    memories = [Remembered() for _ in range(7)]
    databases = make("db", lambda: {memory.state["db"] for memory in memories if memory.state})
    owners = [Owner(7, "shop", f"pr-{number}", Environment.PREVIEW) for number in range(7)]

    with ThreadPoolExecutor(7) as pool:
        list(pool.map(databases.ensure, owners, memories))

    assert {memory.state["db"] for memory in memories} == set(range(1, 8))


def test_when_all_numbers_are_taken_it_says_what_to_raise(make: Make) -> None:
    databases = make("db", lambda: set(range(1, 8)))
    memory = Remembered()

    with pytest.raises(Rejected, match=r"all numbers from 1 to 7 are taken: raise `databases`"):
        databases.ensure(MAIN, memory)

    assert memory.state == {}


def test_a_server_that_lost_databases_is_told_of(make: Make) -> None:
    databases = make("db")
    memory = Remembered(db=12)

    assert not databases.parts(MAIN, memory) <= databases.present()
    with pytest.raises(Rejected, match="its number is 12: the server's `databases` must be more than 8"):
        databases.ensure(MAIN, memory)


def test_removing_a_database_ends_its_connections_and_takes_its_keys_alone(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    databases = make("db")
    memory = made(databases, MAIN)
    with shared_valkey.client(0) as zero, shared_valkey.client(2) as second:
        zero.set("a", "1")
        second.set("a", "1")
        with connected(databases, MAIN, memory) as client:
            client.set("a", "1")
            blocked = client.pubsub()
            blocked.subscribe("news")
            blocked.get_message(timeout=5)
            databases.remove(MAIN, memory)
            with pytest.raises(redis.ConnectionError):
                while blocked.connection.read_response():
                    pass
            blocked.close()
        databases.remove(MAIN, memory)
        databases.remove(PREVIEW, Remembered())

        assert zero.info("keyspace").keys() == {"db0", "db2"}


# --- whatever happens


class Crash(BaseException):
    """The process ends here."""


@contextlib.contextmanager
def crash_at(monkeypatch: pytest.MonkeyPatch, step: int, when: str) -> Iterator[list[int]]:
    """End the process at its n-th command to the server, before or after the server has done it."""
    done = [0]
    real = adapter.Valkey._call

    def call(self: adapter.Valkey, operation: str, *command: str | int) -> object:
        done[0] += 1
        if when == "before" and done[0] == step:
            raise Crash
        answer = real(self, operation, *command)
        if done[0] == step:
            raise Crash
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(adapter.Valkey, "_call", call)
        yield done


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_crash_at_any_step_is_made_good_by_the_next_attempt(
    make: Make, shared_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, mode: str, when: str
) -> None:
    taken: set[int] = set()
    shared = make(mode, lambda: taken)
    for action in ("ensure", "remove"):
        step, crashed = 0, True
        while crashed:
            step += 1
            memory = made(shared, MAIN) if action == "remove" else Remembered()
            with shared_valkey.client(memory.state.get("db", 0)) as root:
                if action == "remove":
                    root.set("a" if mode == "db" else f"{shared.name(MAIN)}:a", "1")
            with crash_at(monkeypatch, step, when):
                try:
                    getattr(shared, action)(MAIN, memory)
                    crashed = False
                except Crash:
                    pass
            getattr(shared, action)(MAIN, memory)
            if action == "ensure":
                assert shared.parts(MAIN, memory) <= shared.present()
                with connected(shared, MAIN, memory) as client:
                    client.set(f"{shared.name(MAIN)}:a", "1")
            shared.remove(MAIN, memory)
            with shared_valkey.client() as root:
                assert root.info("keyspace") == {}
                assert root.acl_users() == ["default"]
        assert step > 2


def test_what_another_mode_made_is_not_forgotten(make: Make, shared_valkey: ValkeyServer) -> None:
    users, databases = make("acl"), make("db")
    memory = made(databases, MAIN)
    users.ensure(MAIN, memory)
    with shared_valkey.client(1) as first:
        first.set("a", "1")

    with pytest.raises(Rejected, match="KENNEL_VALKEY=db made it something, too"):
        users.remove(MAIN, memory)
    databases.remove(MAIN, memory)
    users.remove(MAIN, memory)

    with shared_valkey.client() as root:
        assert root.info("keyspace") == {}
        assert root.acl_users() == ["default"]


@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_server_that_is_down_is_unavailable(make: Make, shared_valkey: ValkeyServer, mode: str) -> None:
    shared = make(mode)
    memory = made(shared, MAIN)
    shared_valkey.kill()

    for action in (
        shared.present,
        lambda: shared.ensure(MAIN, Remembered()),
        lambda: shared.remove(MAIN, memory),
    ):
        with pytest.raises(Unavailable, match="is it running"):
            action()


@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_frozen_server_is_unavailable_and_nothing_waits_for_ever(
    make: Make, shared_valkey: ValkeyServer, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter.Valkey.__init__, "__defaults__", (None, 0.2))
    shared = make(mode)
    memory = made(shared, MAIN)
    shared_valkey.freeze()

    for action in (
        shared.present,
        lambda: shared.ensure(MAIN, Remembered()),
        lambda: shared.remove(MAIN, memory),
    ):
        with pytest.raises(Unavailable, match=r"no answer from .* in time"):
            action()

    shared_valkey.thaw()
    shared.remove(MAIN, memory)


def test_what_speaks_another_language_is_no_server(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>")

        speaking = pool.submit(speak)
        with pytest.raises(Rejected, match="is no Valkey or Redis"):
            make("acl", valkey_url=f"redis://127.0.0.1:{listener.getsockname()[1]}").present()
        speaking.result(5)


@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_login_that_is_refused_is_told_of_with_the_setting_that_mends_it(
    make: Make, shared_valkey: ValkeyServer, tmp_path: Path, mode: str
) -> None:
    with shared_valkey.client() as root:
        root.config_set("requirepass", "opensesame")
    right, wrong, missing = tmp_path / "right", tmp_path / "wrong", tmp_path / "missing"
    right.write_text("opensesame\n")
    wrong.write_text("guess")

    for file, said in (
        (None, "set KENNEL_VALKEY_PASSWORD_FILE"),
        (wrong, "check the password in"),
        (missing, "cannot read"),
    ):
        with pytest.raises(Rejected, match=said) as refusal:
            make(mode, valkey_password_file=file).present()
        assert "guess" not in str(refusal.value)
    shared = make(mode, valkey_password_file=right)
    memory = made(shared, MAIN)
    with connected(shared, MAIN, memory) as client:
        assert client.ping()
    shared.remove(MAIN, memory)


def test_a_login_without_rights_is_told_which_it_lacks(
    make: Make, shared_valkey: ValkeyServer, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("weak")
    with shared_valkey.client() as root:
        root.execute_command("ACL", "SETUSER", "kennel", "on", ">weak", "+info", "+ping")

    limited = make(
        "acl", valkey_url=f"redis://kennel@127.0.0.1:{shared_valkey.port}", valkey_password_file=password
    )

    with pytest.raises(Rejected, match=r"Kennel's own user needs the rules"):
        limited.present()


@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_full_server_still_gives_and_takes(make: Make, shared_valkey: ValkeyServer, mode: str) -> None:
    shared = make(mode)
    memory = made(shared, MAIN)
    key = f"{shared.name(MAIN)}:a"
    with connected(shared, MAIN, memory) as client, shared_valkey.client() as root:
        client.set(key, "x" * 1000)
        root.config_set("maxmemory", "1mb")
        with pytest.raises(redis.OutOfMemoryError):
            client.set(key, "x" * 1000)

    other = Remembered()
    make(mode, lambda: {1}).ensure(PREVIEW, other)
    shared.remove(PREVIEW, other)
    shared.remove(MAIN, memory)

    with shared_valkey.client() as root:
        assert root.info("keyspace") == {}


def test_a_replica_is_told_apart_from_the_primary(make: Make, shared_valkey: ValkeyServer) -> None:
    users = make("acl")
    memory = made(users, MAIN)
    with shared_valkey.client() as root:
        root.set(f"{users.name(MAIN)}:a", "1")
        root.replicaof("127.0.0.1", free_port())

        with pytest.raises(Unavailable, match="must name the primary"):
            users.remove(MAIN, memory)

        root.replicaof("NO", "ONE")
    users.remove(MAIN, memory)


def test_nothing_is_decided_by_a_server_that_still_loads_its_data(
    make: Make, shared_valkey: ValkeyServer
) -> None:
    users, databases = make("acl"), make("db")
    memory = made(users, MAIN)
    with shared_valkey.client() as root:
        root.mset({f"{users.name(MAIN)}:{number}": "x" * 100 for number in range(20_000)})
        root.save()
    shared_valkey.kill()

    shared_valkey.launch("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024")
    until(shared_valkey.socket.exists)

    for action in (lambda: users.remove(MAIN, memory), lambda: databases.ensure(PREVIEW, Remembered())):
        with pytest.raises(Unavailable, match="still loading its data"):
            action()


@pytest.mark.parametrize("mode", ["acl", "db"])
def test_a_mode_that_needs_a_shared_server_says_so(settings: Settings, mode: str) -> None:
    with pytest.raises(ConfigError, match="KENNEL_VALKEY_URL"):
        valkey(settings.model_copy(update={"valkey": mode}), set)


def test_a_missing_key_file_is_told_of(settings: Settings, make: Make) -> None:
    settings.secret_key_file.unlink()

    with pytest.raises(ConfigError, match=r"secret\.key"):
        derived.password(settings.secret_key_file, "valkey")
    with pytest.raises(ConfigError, match=r"secret\.key"):
        make("acl").ensure(MAIN, Remembered())
