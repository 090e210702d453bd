"""``top``: a live view of a state root. ``command`` chooses how, ``source`` waits for changes, ``view`` draws."""
