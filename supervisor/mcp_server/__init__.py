"""Jobs for MCP hosts, with the official SDK on Trio. What is in here needs ``trio-supervisor[mcp]``.

The way of a request, top down; nothing in here decides anything about jobs::

    serving             one server from its settings to its end: stdio or HTTP
    stdio   http        the transports
    server              the SDK's server, put together
    tasks/              any tool as a durable task
    tools   starting    what a host can call: the job tools, and one tool for each kind
    resources           job://ID, and who is told when it changes
    places              the directory in which a job may run
    backend             the supervisor, opened after the first answer
    kinds   templates   the kinds file, and a command line from its template
    answers  arguments  shapes out, values in
    tokens  principals  who is asking
    environment         what a job gets of the server's environment
    review              the program that the shipped examples run: a git diff, made fit to be read
"""
