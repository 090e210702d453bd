"""The load generator behind ``supervisor bench``: it runs a mix of jobs and checks every result.

Each file imports only from rows below it::

    bench               one run: a trial job, the load, the audit, the report
    report   trial      the report as JSON; the trial job, and the cost of the generator itself
    audit               the final checks: the list of jobs, the marks, the processes
    generator           starts jobs when they are due, and waits for the end of each
    check               compares a job with its description
    local   over_mcp    drivers: a state root, an MCP endpoint
    driver  endpoint    the interface of drivers; an MCP endpoint
    program             the program of every job, and its marks
    plan                the due time of every job, from the seed
    mix   spread        the description: sorts of jobs, and varying quantities
    series              measured values and their percentiles

The load is open-loop: jobs are due at times on the clock, whether or not earlier starts have been
answered, and latencies count from the due time. So a supervisor that stalls for a second delays every
start that was due in that second, and the figures show all of them.
"""
