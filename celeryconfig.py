"""Celery's settings. A message is a hint and the row is the job, so nothing here guards against loss."""

import random

from kombu import Queue

from kennel_core.settings import load_or_exit

_settings = load_or_exit()

broker_url = _settings.broker_url
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a broker that is down at start comes back, too
broker_transport_options = {
    "visibility_timeout": 86_400,  # longer than any build: nothing is delivered again while it runs
    "socket_connect_timeout": 5,
    "socket_timeout": 30,  # a worker blocks in BRPOP for less; who rings has its own: kennel_tasks.doorbell
}

accept_content = ["json"]
task_serializer = "json"
task_ignore_result = True

task_create_missing_queues = False
task_queues = [Queue("builds"), Queue("reconcile")]
task_default_queue = "reconcile"
task_routes = {
    "kennel.build": {"queue": "builds"},
    "kennel.hooks": {"queue": "builds"},
    "kennel.catch_up": {"queue": "builds"},  # it waits for others' networks, which a pass must not
    "kennel.reconcile": {"queue": "reconcile"},
    "kennel.look": {"queue": "reconcile"},
    "kennel.report": {"queue": "reconcile"},
}

imports = ["kennel_tasks.tasks"]
task_acks_late = True  # a clean stop gives the message back at once
task_reject_on_worker_lost = False  # the lease and its attempt counter decide, not the broker
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False  # Redis: tasks would wait for visibility_timeout
worker_concurrency = _settings.max_builds
worker_soft_shutdown_timeout = 10

worker_hijack_root_logger = False
worker_send_task_events = True  # flower lists tasks by these

beat_schedule = {
    "pass": {"task": "kennel.reconcile", "schedule": 30.0, "options": {"expires": 25}},
    "catch-up": {
        "task": "kennel.catch_up",
        # The forge is not asked by every Kennel at once.
        "schedule": _settings.catch_up_interval * random.uniform(0.9, 1.1),  # noqa: S311  # no secret
        "options": {"expires": _settings.catch_up_interval},
    },
    "look": {
        "task": "kennel.look",
        "schedule": _settings.secrets_interval,
        "options": {"expires": _settings.secrets_interval},
    },
}
if _settings.reports:
    beat_schedule["hooks"] = {
        "task": "kennel.hooks",
        "schedule": _settings.forge_interval,
        "options": {"expires": _settings.forge_interval},
    }
    beat_schedule["report"] = {"task": "kennel.report", "schedule": 30.0, "options": {"expires": 25}}
beat_scheduler = "celery.beat:Scheduler"  # fixed entries: nothing to keep on disk
