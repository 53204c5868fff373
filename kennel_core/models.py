"""The tables. Intent and history only: what runs is asked of systemd, what is routed of Caddy.

Times are Unix seconds (REAL). Only `projects`, `receive`, `builds` and `deployments` write rows.
"""

import time
from enum import StrEnum
from typing import Any

import peewee
from playhouse.sqlite_ext import AutoIncrementField, JSONField

from kennel_core.db import database


class BuildStatus(StrEnum):
    """The states of a build; the last three are final."""

    QUEUED = "queued"
    BUILDING = "building"
    BUILT = "built"  # the deployment rows are written; the reconciler is bringing them up
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL = (BuildStatus.DONE, BuildStatus.FAILED, BuildStatus.CANCELLED)


class Kind(StrEnum):
    """What a project can declare."""

    SERVICE = "service"
    SITE = "site"


class Base(peewee.Model):
    """What every table has."""

    class Meta:
        database = database


class Project(Base):
    """A registered repository. Its webhook secret is derived, see `projects.webhook_secret`."""

    id = AutoIncrementField()  # never used twice
    owner = peewee.CharField(collation="NOCASE")
    name = peewee.CharField(collation="NOCASE")
    clone_url = peewee.CharField()
    default_branch = peewee.CharField(default="main")
    secret_generation = peewee.IntegerField(default=1)
    created_at = peewee.FloatField(default=time.time)
    forge_id: Any = peewee.IntegerField(null=True)  # the repository's number on the forge; outlives renames
    hook_id: Any = peewee.IntegerField(null=True)  # of the webhook that Kennel made there
    looked_at: Any = peewee.FloatField(null=True)  # when its heads were last compared with what was built

    class Meta:
        table_name = "projects"
        indexes = ((("owner", "name"), True),)

    @property
    def full_name(self) -> str:
        """``owner/name``, as the forge shows it."""
        return f"{self.owner}/{self.name}"


class Build(Base):
    """One attempt to turn a commit into store paths: the row is the job.

    `outputs` is set when the build is built: see `kennel_core.outputs.Outputs`.
    """

    id = AutoIncrementField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="builds", on_delete="CASCADE")
    ref = peewee.CharField()  # a branch name, or "pr-<number>"
    commit = peewee.CharField(max_length=64)
    status = peewee.CharField(default=BuildStatus.QUEUED)
    error = peewee.TextField(null=True)  # one sentence, for a person
    cancel_requested = peewee.BooleanField(default=False)
    attempt = peewee.IntegerField(default=0)
    token = peewee.CharField(null=True)  # of the worker that holds the lease
    lease_until = peewee.FloatField(null=True)
    created_at = peewee.FloatField(default=time.time)
    enqueued_at = peewee.FloatField(null=True)  # when a message was last sent
    started_at = peewee.FloatField(null=True)
    built_at = peewee.FloatField(null=True)
    finished_at = peewee.FloatField(null=True)
    outputs: Any = JSONField(null=True)
    log = peewee.TextField(null=True)  # written once, with the final status; last, so that lists stay cheap

    class Meta:
        table_name = "builds"
        indexes = ((("project", "ref", "id"), False), (("status", "project", "ref"), False))
        constraints = (
            peewee.Check("status IN ('queued', 'building', 'built', 'done', 'failed', 'cancelled')"),
        )


class Deployment(Base):
    """One row per project, ref and name says: this store path should run here. A redeploy keeps the id.

    The columns say what should run. `live` holds their values (`kennel_core.deployments.VERSIONED`) as they
    were when the deployment last came up healthy; null: never. While they differ, the live version keeps
    serving and the row is being rolled out.
    """

    id = AutoIncrementField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="deployments", on_delete="CASCADE")
    ref = peewee.CharField()
    name = peewee.CharField()
    kind = peewee.CharField()
    environment = peewee.CharField()
    build_id: int
    build = peewee.ForeignKeyField(Build, backref="deployments")
    commit = peewee.CharField(max_length=64)
    store_path = peewee.CharField()
    config_path = peewee.CharField()  # the working directory: holds kennel.json and secretspec.toml
    host = peewee.CharField(unique=True)
    alias_host = peewee.CharField(null=True, unique=True)
    custom_domain = peewee.CharField(null=True, unique=True)
    spa = peewee.BooleanField(default=False)
    command: Any = JSONField(null=True)  # argv of a service
    health: Any = JSONField(null=True)  # {"path": str | null, "timeout": seconds} of a service
    resources: Any = JSONField(null=True)  # kinds that the ref's services need: see `kennel_core.provision`
    oidc: Any = JSONField(null=True)  # redirect paths of a service
    inputs: Any = JSONField(null=True)  # see `kennel_core.inputs.Inputs.noted`; null: not gathered yet
    unit = peewee.CharField(null=True, unique=True)
    port = peewee.IntegerField(null=True, unique=True)
    live: Any = JSONField(null=True)
    created_at = peewee.FloatField(default=time.time)
    updated_at = peewee.FloatField(default=time.time)

    class Meta:
        table_name = "deployments"
        indexes = ((("project", "ref", "name"), True),)
        constraints = (peewee.Check("kind IN ('service', 'site')"),)


class Delivery(Base):
    """A webhook delivery that was acted upon or ignored; its id seen again changes nothing."""

    id = peewee.AutoField()
    delivery_id = peewee.CharField(unique=True)
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="deliveries", on_delete="CASCADE")
    event = peewee.CharField()
    outcome = peewee.CharField()  # what the answer said
    received_at = peewee.FloatField(default=time.time, index=True)

    class Meta:
        table_name = "deliveries"


class Resource(Base):
    """Something outside that Kennel made, noted before it is made. Only what stands here is ever removed.

    The owner is a ref of a project that may itself be gone, so `project_id` is no foreign key.
    """

    id = peewee.AutoField()
    kind = peewee.CharField()  # "unit", "oidc", or a provisioner's
    name = peewee.CharField()
    port = peewee.IntegerField(null=True)  # where a unit listens, to see when its connections have ended
    project_id: Any = peewee.IntegerField(null=True)  # the owner's; null for units of older versions
    project: Any = peewee.CharField(null=True)  # the repository's name
    ref: Any = peewee.CharField(null=True)
    environment: Any = peewee.CharField(null=True)
    state: Any = JSONField(default=dict)  # what a provisioner remembers; never a secret
    created_at = peewee.FloatField(default=time.time)
    made_at = peewee.FloatField(null=True)  # when it was first whole
    unwanted_at = peewee.FloatField(null=True)  # since when no row names it
    confirmed_at = peewee.FloatField(null=True)  # when an operator said that its data may go

    class Meta:
        table_name = "resources"
        indexes = ((("kind", "name"), True),)


class Ref(Base):
    """What is known of a ref beside its builds: what the forge last said, and whether it sleeps."""

    id = peewee.AutoField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="refs", on_delete="CASCADE")
    ref = peewee.CharField()
    head: Any = peewee.CharField(null=True, max_length=64)  # the commit that was last heard of
    stopped_at: Any = peewee.FloatField(null=True)  # since when its services are meant to be stopped
    stopped_why: Any = peewee.CharField(null=True)  # a sentence
    woken_at: Any = peewee.FloatField(null=True)  # when somebody last ended its sleep

    class Meta:
        table_name = "refs"
        indexes = ((("project", "ref"), True),)


class PullRequest(Base):
    """A pull request as the forge last described it, and the one commit that was approved."""

    id = peewee.AutoField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="pull_requests", on_delete="CASCADE")
    number = peewee.IntegerField()
    author = peewee.CharField()
    commit = peewee.CharField(max_length=64)
    fork = peewee.BooleanField(default=False)
    draft = peewee.BooleanField(default=False)
    labels: Any = JSONField(default=list)
    open = peewee.BooleanField(default=True)
    approved_commit: Any = peewee.CharField(null=True, max_length=64)
    approved_by: Any = peewee.CharField(null=True)
    skip = peewee.BooleanField(default=False)  # its title says [skip kennel]
    trusted: Any = peewee.BooleanField(null=True)  # its author may write; null: not asked for this commit
    state = peewee.CharField(default="new")  # see `kennel_core.pull_requests.State`
    why: Any = peewee.CharField(null=True)  # a sentence: what is waited for
    removed: Any = JSONField(null=True)  # names of what was taken down when it was closed

    class Meta:
        table_name = "pull_requests"
        indexes = ((("project", "number"), True),)


class Command(Base):
    """A line such as ``/kennel redeploy`` in a comment on a pull request. It is carried out once."""

    id = peewee.AutoField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="commands", on_delete="CASCADE")
    number = peewee.IntegerField()  # of the pull request
    comment_id = peewee.IntegerField()
    author = peewee.CharField()
    words = peewee.CharField()  # what follows /kennel
    commit: Any = peewee.CharField(null=True, max_length=64)  # the pull request's when the comment came
    at = peewee.FloatField(default=time.time)
    outcome: Any = peewee.CharField(null=True)  # a sentence; null: not carried out yet
    reaction: Any = peewee.CharField(null=True)  # that the comment shall get; null: none, or it has it
    answer: Any = peewee.TextField(null=True)  # lines for the pull request's comment

    class Meta:
        table_name = "commands"
        indexes = ((("project", "comment_id"), True),)


class ForgeReport(Base):
    """What the forge was last told about one commit's status or one pull request's comment."""

    id = peewee.AutoField()
    project_id: int
    project = peewee.ForeignKeyField(Project, backref="reports", on_delete="CASCADE")
    target = peewee.CharField()  # "status:<commit>:<context>" or "comment:<number>"
    digest: Any = peewee.CharField(null=True)  # of what the forge has; null: nothing yet
    remote_id: Any = peewee.IntegerField(null=True)  # of a comment
    tries = peewee.IntegerField(default=0)  # in a row that failed
    next_at: Any = peewee.FloatField(null=True)  # not before then
    error: Any = peewee.CharField(null=True)
    updated_at = peewee.FloatField(default=time.time)

    class Meta:
        table_name = "forge_reports"
        indexes = ((("project", "target"), True),)


class AuditEntry(Base):
    """Something a person asked for through the forge or the command line, and what came of it."""

    id = peewee.AutoField()
    at = peewee.FloatField(default=time.time, index=True)
    who = peewee.CharField()
    what = peewee.CharField()
    target = peewee.CharField()
    outcome = peewee.CharField()

    class Meta:
        table_name = "audit"


class LogChunk(Base):
    """Lines of a build that is not final yet, in the order they came."""

    build = peewee.ForeignKeyField(Build, on_delete="CASCADE")
    seq = peewee.IntegerField()
    phase = peewee.CharField()
    data = peewee.TextField()

    class Meta:
        table_name = "log_chunks"
        primary_key = peewee.CompositeKey("build", "seq")
        without_rowid = True


TABLES = (
    Project,
    Build,
    Deployment,
    Delivery,
    Resource,
    Ref,
    PullRequest,
    Command,
    ForgeReport,
    AuditEntry,
    LogChunk,
)
