"""The job directory, which is the truth about a job: its records, its output, and how both are read."""
