"""What commands share: settings, the database, ``--json``, and the doorbell."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import ParamSpec, TypeVar

import click

from kennel_core import db, logs
from kennel_core import settings as settings_module
from kennel_core.doorbell import Doorbell
from kennel_core.errors import ConfigError
from kennel_core.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

DOORBELLS = "kennel.doorbell"  # entry points: the core does not know what carries its messages


class SettingsError(ConfigError):
    """Settings are wrong; the message lists all of them."""


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """Add ``--json``, which every command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def load_settings() -> Settings:
    """Read the settings, and point logging at standard error and the database handle at its file.

    Raises:
        SettingsError: some are wrong.
    """
    try:
        settings = settings_module.load()
    except ConfigError as exc:
        raise SettingsError("the settings are wrong\n" + str(exc)) from exc
    logs.configure(settings)
    db.configure(settings.database)
    return settings


@contextmanager
def database() -> Iterator[Settings]:
    """Read the settings and hold one connection to the database."""
    settings = load_settings()
    with db.connection():
        yield settings


def operator() -> str:
    """Name who runs the command, as the audit log does."""
    return f"{getpass.getuser()}@host"


def doorbell() -> Doorbell:
    """Make the doorbell of the installed task queue."""
    (entry,) = entry_points(group=DOORBELLS)
    bell: Doorbell = entry.load()()
    return bell
