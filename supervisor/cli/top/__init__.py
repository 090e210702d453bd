"""``top``: a live view of a state root. ``command`` chooses how, ``lines`` how much, ``view`` draws."""
