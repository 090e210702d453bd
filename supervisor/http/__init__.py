"""The HTTP server under ``supervisor mcp --http`` and ``supervisor serve``: addresses, connections, tokens, limits."""
