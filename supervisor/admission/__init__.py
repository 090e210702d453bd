"""Which waiting job runs next: groups with limits, and the operations on them."""
