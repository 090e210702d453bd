"""``doctor``: its command, and its checks by what they look at."""
