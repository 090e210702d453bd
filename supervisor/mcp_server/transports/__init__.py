"""The transports of MCP: JSON lines over stdio, and streamable HTTP."""
