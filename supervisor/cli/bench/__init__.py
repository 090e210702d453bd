"""``bench``: the load, what people see while it runs, and its report."""
