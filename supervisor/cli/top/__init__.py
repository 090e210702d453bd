"""``top``: a live view of a state root. ``command`` chooses how, ``source`` how much, ``view`` draws."""
