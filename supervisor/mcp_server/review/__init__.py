"""``python -m supervisor.mcp_server.review``, the program of the shipped review kinds."""
