"""Entry point for gunicorn: `app` is the web process, `follow_app` the one that serves ``?follow=true``."""

from kennel_core import db, logs, settings
from kennel_core.errors import ConfigError, Unavailable
from kennel_tasks.doorbell import CeleryDoorbell
from kennel_web import create_app

_settings = settings.load_or_exit()
logs.configure(_settings)
db.configure(_settings.database)
try:
    with db.connection():  # refuse at once what every request would refuse; closed again before the fork
        pass
except (ConfigError, Unavailable) as exc:
    settings.refuse(ConfigError(str(exc)))

doorbell = CeleryDoorbell()
app = create_app(_settings, doorbell)
follow_app = create_app(_settings, doorbell, follow=True)
