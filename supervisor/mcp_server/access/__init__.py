"""Who may call, and whose job is whose."""
