"""``doctor``: the command, and its checks of the machine, its containment and its cluster."""
