"""Commands on this machine, whose parent is a keeper."""
