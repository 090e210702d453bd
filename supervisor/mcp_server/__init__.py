"""Jobs for MCP hosts, with the official SDK on Trio. What is in here needs ``trio-supervisor[mcp]``.

The way of a request, top down; nothing in here decides anything about jobs::

    serving         one server from its settings to its end: stdio or HTTP
    server          the SDK's server, put together
    transports/     stdio and HTTP; what each caller over HTTP may hold
    tasks/          any tool as a durable task
    tools/          what a host can call and read: job tools, one tool for each kind, job://ID
    access/         tokens, principals, and the directories that no job of a caller may use
    config/         what the operator sets: kinds, templates, patterns, places, the environment of jobs
    backend         the supervisor, opened after the first answer
    review/         the program that the shipped examples run: a git diff, made fit to be read
"""
