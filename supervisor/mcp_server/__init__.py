"""Jobs for MCP hosts, with the official SDK on Trio. What is in here needs ``trio-supervisor[mcp]``.

The way of a request, top down; nothing in here decides anything about jobs::

    serving             one server from its settings to its end: stdio or HTTP
    stdio   http        the transports; messages: a line of the first
    limits  accepting   what each caller over HTTP may hold, and taking connections
    listening           a port or a UNIX socket
    server              the SDK's server, put together
    tasks/              any tool as a durable task
    tools   starting    what a host can call: the job tools, and one tool for each kind
    resources           job://ID, and who is told when it changes
    patterns            commands that --allow-command allows
    places              the directory in which a job may run
    backend             the supervisor, opened after the first answer
    guarded             where no job may run, and the kinds file read with that in mind
    kinds   templates   the kinds file, and a command line from its template; expressions: its patterns
    answers  arguments  shapes out, values in
    tokens  principals  who is asking
    environment         what a job gets of the server's environment
    review              the program that the shipped examples run: a git diff, made fit to be read
"""
