"""What a build made: the column `builds.outputs`, and what deployment rows are written from. Pure."""

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServiceOutput(_Frozen):
    """A process. `health_path` None means no check; `health_timeout` (seconds) None means the setting's.

    `oidc` are the paths that a login may come back to; None: it has no logins.
    """

    name: str
    store_path: str
    command: list[str]
    custom_domain: str | None = None
    health_path: str | None = None
    health_timeout: float | None = None
    oidc: list[str] | None = None


class SiteOutput(_Frozen):
    """A folder of files: the store path is the web root."""

    name: str
    store_path: str
    spa: bool = False
    custom_domain: str | None = None


class Outputs(_Frozen):
    """Everything a build made.

    `config_path` is the folder with kennel.json, the working directory of services. `resources` None means
    that the project does not say which it needs: its module is older than the field. `origin` is the build
    whose GC roots hold the store paths, when that is another one.
    """

    config_path: str
    origin: int | None = None
    preview_deployments: bool = True
    resources: list[str] | None = None
    services: list[ServiceOutput] = []
    sites: list[SiteOutput] = []
