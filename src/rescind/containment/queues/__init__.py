"""Queues whose jobs can wait: a port, the SQL job table that the user has, and Celery on Redis."""
