"""What an operator configures: kinds, templates, patterns, places and the environment of jobs."""
