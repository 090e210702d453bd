"""The server behind `supervisor serve`: page, REST, metrics, health and MCP on one port, with the extra ``serve``."""
