"""The job directory, which is the truth about a job: its records and its output.

The keeper runs some of these modules, which ``KEEPER_FILES`` names: they import the standard library only.
"""
