"""``bench``: the command, its live view, and its report as text."""
