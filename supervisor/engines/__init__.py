"""How commands are run: on this machine or on a cluster, behind one interface."""
