"""Entry point of gunicorn for the process that serves ``?follow=true``: without Celery, which takes 12 MB."""

from kennel_core import db, logs, settings
from kennel_web import create_app

_settings = settings.load_or_exit()
logs.configure(_settings)
db.configure(_settings.database)
db.require_or_exit()

app = create_app(_settings, None)
