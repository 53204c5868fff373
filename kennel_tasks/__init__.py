"""Celery: tasks of a few lines that call one core function."""

from kennel_tasks.app import app

__all__ = ["app"]
