"""Slurm as a backend: its commands, and the options that a job may give it."""
