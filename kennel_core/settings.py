"""Kennel's settings: environment variables to one frozen object.

A variable is the field's name in upper case with the prefix ``KENNEL_``. Secrets are named by the path of
a file. `deploy/kennel.env.example` lists every variable; a test holds it to this class.
"""

import difflib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Self

import pydantic
from pydantic import ConfigDict, Field

from kennel_core import provider
from kennel_core.errors import ConfigError

PREFIX = "KENNEL_"
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
URL = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")

Seconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


_TOGETHER = {  # what must be set when something else is
    "garage_admin": ("garage_token_file", "garage_s3"),
    "keycloak": ("keycloak_realm", "keycloak_secret_file"),
}


class Settings(pydantic.BaseModel):
    """Every setting, with its default. Sizes are bytes, durations seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # state
    state_dir: Path = Field(Path("/var/lib/kennel"), description="database, secret key, build directories")
    runtime_dir: Path = Field(Path("/run/kennel"), description="locks, and what Caddy reads; emptied at boot")
    gcroots_dir: Path = Field(Path("/nix/var/nix/gcroots/kennel"), description="GC roots of live outputs")

    # HTTP
    bind: str = Field("127.0.0.1:3000", description="address of the web process")
    follow_bind: str = Field("127.0.0.1:3001", description="address of the process that serves ?follow=true")
    domain: str = Field("", description="host name of Kennel itself; routed through Caddy when set")
    base_domain: str = Field("localhost", description="hosts are {project}-{service}-{slug}.{base_domain}")
    https_port: Port = Field(443, description="port that browsers use, for the URLs Kennel shows")

    # neighbours
    broker_url: str = Field("redis+socket:///run/kennel-redis/redis.sock", description="Redis or Valkey")
    caddy_admin: str = Field(
        "http://127.0.0.1:2019", description="admin API: http://HOST:PORT or unix:///PATH"
    )
    caddy_server: str = Field("kennel", description="key below apps.http.servers whose routes Kennel owns")
    bus: str = Field("system", description="D-Bus of systemd: system, session, or an address (unix:path=...)")
    journal_dir: Path | None = Field(None, description="journal directory, where it is not the host's own")

    # forge
    forge_url: str = Field("", description="URL of the Forgejo or Gitea, as its ROOT_URL says; empty: none")
    forge_token_file: Path | None = Field(
        None, description="file with a token that has write:repository and write:issue"
    )
    forge_hook_url: str = Field(
        "", description="where the forge delivers; empty: /webhook of the domain, or of the bind address"
    )
    forge_interval: Seconds = Field(300, description="how often hooks and repositories are looked at")
    auto_register_secret_file: Path | None = Field(
        None, description="file with a secret whose first delivery registers a repository; empty: none does"
    )

    # previews
    preview_limit: int = Field(20, ge=0, description="pull requests of one project that are up at once")
    preview_drafts: bool = Field(default=True, description="build drafts, too")
    preview_labels: str = Field(
        "", description="labels, separated by commas, one of which a pull request must have; empty: none"
    )
    preview_labels_excluded: str = Field(
        "", description="labels, separated by commas, none of which a pull request may have"
    )

    preview_stop_days: float = Field(
        7, ge=0, description="days without a push after which a preview or dev branch sleeps; 0: never"
    )
    preview_remove_days: float = Field(
        30, ge=0, description="days without a push after which it is removed, with its data; 0: never"
    )

    # builds
    max_builds: int = Field(2, ge=1, le=64, description="builds at once")
    package_jobs: int = Field(4, ge=1, le=64, description="packages of one build at once")
    clone_timeout: Seconds = Field(300, description="limit of the clone phase")
    discover_timeout: Seconds = Field(900, description="limit of the discover phase")
    build_timeout: Seconds = Field(1800, description="limit of each build:<package> phase")
    publish_timeout: Seconds = Field(900, description="limit of the publish phase")
    catch_up_interval: Seconds = Field(
        300, description="how often repositories are asked for pushes whose delivery never came"
    )
    min_free_bytes: int = Field(
        1024**3, ge=0, description="no build begins with less room than this; 0: any will do"
    )
    log_days: float = Field(90, ge=0, description="days that the log of a build is kept; 0: for ever")
    keep_builds: int = Field(3, ge=1, description="builds per ref whose outputs keep a GC root")
    deploy_branches: str = Field(
        "*", description="branches that deploy, as glob patterns separated by spaces"
    )
    git_allow_file: bool = Field(default=False, description="allow file:// clone URLs (tests and demo)")
    cachix_cache: str = Field("", description="binary cache to publish to with `cachix push`; empty: do not")
    cachix_token_file: Path | None = Field(None, description="file with CACHIX_AUTH_TOKEN")

    # services
    ports: Annotated[str, Field(pattern=r"^\d{1,5}-\d{1,5}$")] = Field(
        "18000-27999", description="ports for services, first-last"
    )
    health_timeout: Seconds = Field(60, description="how long a service may take until it is healthy")
    drain_timeout: Seconds = Field(30, description="how long an old unit may finish its connections")
    memory_max: int = Field(2 * 1024**3, ge=1024**2, description="MemoryMax of a service")
    tasks_max: int = Field(512, ge=1, description="TasksMax of a service")

    # what services need
    postgres: str = Field(
        "", description="libpq connection string of Kennel's own role (CREATEDB, CREATEROLE); empty: none"
    )
    postgres_password_file: Path | None = Field(None, description="file with that role's password")
    postgres_auth: Literal["peer", "password"] = Field(
        "peer", description="how services log in: peer (same host, over the socket) or password"
    )
    postgres_template: str = Field("template1", description="database that new ones are copied from")
    postgres_extensions: str = Field("", description="extensions of every new database, separated by spaces")
    postgres_connections: int = Field(20, ge=1, description="connections of one ref's database at once")
    valkey: Literal["", "instance", "acl", "db"] = Field(
        "", description="instance (a server for each ref), acl or db (on a shared server); empty: none"
    )
    valkey_program: str = Field(
        "", description="server to run as an instance; empty: valkey-server, else redis-server"
    )
    valkey_memory: int = Field(256 * 1024**2, ge=1024**2, description="maxmemory of an instance")
    valkey_url: str = Field(
        "", description="the shared server of acl and db: redis://HOST:PORT or unix://PATH"
    )
    valkey_password_file: Path | None = Field(None, description="file with its password")
    garage_admin: str = Field("", description="URL of Garage's admin API; empty: none")
    garage_token_file: Path | None = Field(None, description="file with an admin token of Garage")
    garage_s3: str = Field("", description="URL of Garage's S3 API, as services see it")
    garage_region: str = Field("garage", description="Garage's s3_region")
    garage_max_bytes: int = Field(10 * 1024**3, ge=1, description="quota of a bucket")
    garage_max_objects: int = Field(1_000_000, ge=1, description="quota of a bucket")
    secrets: str = Field(
        "", description="secretspec provider: openbao://HOST[:PORT][/MOUNT]?auth=approle; empty: none"
    )
    secrets_role_id_file: Path | None = Field(None, description="file with the AppRole's role id")
    secrets_secret_id_file: Path | None = Field(None, description="file with the AppRole's secret id")
    secrets_token_file: Path | None = Field(None, description="file with a token, for auth=token")
    secrets_jwt_file: Path | None = Field(None, description="file with a JWT, for auth=jwt")
    secrets_shared: str = Field(
        "shared/", description="where `ref` of secretspec.toml may read, as prefixes separated by spaces"
    )
    secrets_interval: Seconds = Field(300, description="how often changed secrets are looked for")
    keycloak: str = Field("", description="URL of Keycloak, without /realms; empty: none")
    keycloak_realm: str = Field("", description="realm of the clients")
    keycloak_client: str = Field("kennel", description="Kennel's own client, with manage-clients")
    keycloak_secret_file: Path | None = Field(None, description="file with its secret")
    inputs_group: str = Field(
        "", description="group that may read what services are told: of the process that shows their logs"
    )
    custom_domains_file: Path | None = Field(
        None, description="file that lists the custom domains that are live, one a line"
    )

    # output
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line to log"
    )

    @pydantic.field_validator("domain", "base_domain")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if value and not HOST.fullmatch(value):
            raise ValueError("must be a host name in lower case, such as apps.example.org")
        return value

    @pydantic.field_validator("forge_url", "forge_hook_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and not URL.fullmatch(value):
            raise ValueError("must be a URL without a user name, such as https://forge.example.org")
        return value.rstrip("/")

    @pydantic.field_validator("bind", "follow_bind")
    @classmethod
    def _is_address(cls, value: str) -> str:
        _host, _colon, port = value.rpartition(":")
        if not _host or not port.isdecimal() or not 0 < int(port) <= 65535:
            raise ValueError("must be HOST:PORT")
        return value

    @pydantic.field_validator("caddy_admin")
    @classmethod
    def _is_admin_address(cls, value: str) -> str:
        if not re.match(r"https?://[^/]+$|unix:///.", value):
            raise ValueError("must be http://HOST:PORT or unix:///PATH")
        return value

    @pydantic.field_validator("secrets")
    @classmethod
    def _is_provider(cls, value: str) -> str:
        if value:
            provider.parse(value, os.environ)
        return value

    @pydantic.field_validator("ports")
    @classmethod
    def _is_range(cls, value: str) -> str:
        first, last = map(int, value.split("-"))
        if not 1024 <= first <= last <= 65535:
            raise ValueError("must be FIRST-LAST with 1024 <= FIRST <= LAST <= 65535")
        return value

    @pydantic.model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse a neighbour that is only half described."""
        lacking = [
            f"{variable(name)}: must be set, because {variable(because)} is"
            for because, names in _TOGETHER.items()
            for name in names
            if getattr(self, because) and not getattr(self, name)
        ]
        if self.valkey in ("acl", "db") and not self.valkey_url:
            lacking.append(f"{variable('valkey_url')}: must name the server of mode {self.valkey}")
        if lacking:
            raise ValueError("\n".join(lacking))
        return self

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "kennel.db"

    @property
    def secret_key_file(self) -> Path:
        """The key that webhook secrets are derived from."""
        return self.state_dir / "secret.key"

    @property
    def work_dir(self) -> Path:
        """Where builds have their directories, one each, named by id."""
        return self.state_dir / "builds"

    @property
    def inputs_dir(self) -> Path:
        """Where units read their secrets from."""
        return self.runtime_dir / "inputs"

    @property
    def reconcile_lock(self) -> Path:
        """The file whose lock makes a pass the only one."""
        return self.runtime_dir / "reconcile.lock"

    @property
    def targets_dir(self) -> Path:
        """Where Caddy reads what is live; nobody's but Kennel's, and open to everybody."""
        return self.runtime_dir / "targets"

    @property
    def webhook_url(self) -> str:
        """Where the forge delivers."""
        base = self.url(self.domain) if self.domain else f"http://{self.bind}"
        return self.forge_hook_url or f"{base}/webhook"

    @property
    def reports(self) -> bool:
        """Whether the forge is told what happens, and asked what people may do: that needs a token."""
        return bool(self.forge_url and self.forge_token_file)

    @property
    def port_range(self) -> range:
        """The ports a service may get."""
        first, last = map(int, self.ports.split("-"))
        return range(first, last + 1)

    @property
    def resources(self) -> dict[str, bool]:
        """Which kinds of resources there are, and whether each is configured."""
        return {
            "postgres": bool(self.postgres),
            "valkey": bool(self.valkey),
            "garage": bool(self.garage_admin),
        }

    def url(self, host: str) -> str:
        """Give the URL that a browser uses for `host`."""
        return f"https://{host}" if self.https_port == 443 else f"https://{host}:{self.https_port}"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check every setting.

    Raises:
        ConfigError: one line for each variable that is misspelt, malformed or out of range.
    """
    environ = os.environ if environ is None else environ
    problems = [_misspelt(name) for name in sorted(environ) if _is_unknown(name)]
    try:
        settings = Settings.model_validate(_given(environ))
    except pydantic.ValidationError as exc:
        problems += [_problem(error["loc"], error["msg"]) for error in exc.errors()]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def variable(field: str) -> str:
    """Name the environment variable of a setting."""
    return f"{PREFIX}{field.upper()}"


def _problem(location: tuple[int | str, ...], message: str) -> str:
    """Say what is wrong with one setting, or which are missing."""
    return f"{variable(str(location[0]))}: {message}" if location else message.removeprefix("Value error, ")


def load_or_exit() -> Settings:
    """Read the settings for a process; wrong ones are listed on standard error, exit status 2."""
    try:
        return load()
    except ConfigError as exc:
        refuse(exc)


def refuse(error: ConfigError) -> NoReturn:
    """Say why Kennel does not start, and exit with status 2."""
    sys.stderr.write(f"kennel: refusing to start\n{error}\n")
    raise SystemExit(2)


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values that are set, by field; an empty variable counts as not set."""
    values = {name: environ.get(variable(name)) for name in Settings.model_fields}
    return {name: value for name, value in values.items() if value}


def _is_unknown(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in Settings.model_fields


def _misspelt(wrong: str) -> str:
    known = [variable(name) for name in Settings.model_fields]
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"{wrong}: there is no such setting" + (f"; did you mean {close[0]}?" if close else "")
