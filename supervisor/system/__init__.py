"""The operating system: processes, files, signals. Nothing in this package knows about jobs."""
