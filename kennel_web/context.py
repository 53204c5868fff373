"""What every view needs: the settings, and how many people follow a log."""

import threading
from dataclasses import dataclass, field

from flask import current_app

from kennel_core.settings import Settings

FOLLOWERS_MAX = 64  # each holds a thread of the follow process


@dataclass(frozen=True)
class Context:
    """One for each application."""

    settings: Settings
    follow: bool  # this is the process that serves ?follow=true
    followers: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(FOLLOWERS_MAX))


def context() -> Context:
    """Return that of the application which serves the present request."""
    found: Context = current_app.extensions["kennel"]
    return found
