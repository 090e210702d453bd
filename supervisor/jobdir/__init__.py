"""The job directory, which is the truth about a job: its records and its output.

The modules that ``engines.staging.KEEPER_FILES`` lists run in the keeper: they import only the standard library.
"""
