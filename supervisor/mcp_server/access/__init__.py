"""Tokens, principals, and guarded paths."""
