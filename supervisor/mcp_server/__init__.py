"""Jobs for MCP hosts, with the official SDK on Trio. It needs ``trio-supervisor[mcp]``.

The path of a request, top down. The library, not this package, decides about jobs::

    serving         one server from its settings to its end: stdio or HTTP
    server          the SDK's server with its tools
    transports/     stdio and HTTP; the limits of each caller over HTTP
    tasks/          durable tasks for any tool
    tools/          the tools and resources of a host: job tools, one tool for each kind, job://ID
    access/         tokens, principals, and the directories that are forbidden to jobs of callers
    config/         the operator's configuration: kinds, templates, patterns, workspaces, environment
    changes         whether what was read of the state root may be out of date
    lazy            the supervisor, opened after the first answer
    review/         the program of the shipped review kinds: it prepares a git diff for an agent
"""
