"""The program that outlives the supervisor and is the parent of the jobs; other tools call it a monitor or a shim."""
