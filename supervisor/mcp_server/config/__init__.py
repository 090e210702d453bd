"""The operator's configuration: kinds, templates, command patterns, workspaces, the environment of jobs."""
