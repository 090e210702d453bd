"""The actors of a supervisor: a registry that alone writes states, a task for each job, a janitor.

They share nothing but messages to the registry and the ``Entry`` of a job.
"""
