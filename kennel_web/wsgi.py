"""Entry point of gunicorn for the web process."""

from kennel_core import db, logs, settings
from kennel_tasks.doorbell import CeleryDoorbell
from kennel_web import create_app

_settings = settings.load_or_exit()
logs.configure(_settings)
db.configure(_settings.database)
db.require_or_exit()  # refuse at once what every request would refuse

app = create_app(_settings, CeleryDoorbell())
