"""The load generator behind ``supervisor bench``: a described mix of jobs, and whether anything was lost of it.

The way of a run, top down; each imports only from rows below it::

    bench               one run: a trial job, the load, the audit, the report
    report              what came out, as JSON and as text
    audit               what is left when all is over: the list, the marks, the processes
    generator           starts jobs when they are due, and sees each to its end
    check               what is wrong with a job, by what its description demanded
    local   over_mcp    whom jobs are asked of: a state root, an MCP endpoint
    driver              what the generator asks of either
    program             the small program that every job is, and what it leaves behind
    plan                which job is due when, from the seed
    mix   spread        the description: sorts of jobs, and how a quantity varies
    series              measured values and their percentiles

Open loop: jobs are due by the clock, whether or not those before them have been answered, and a
start is timed from the moment it was due. A supervisor that stalls for a second is so charged with
every start that had to wait, not with one.
"""
