"""Commands on the nodes of a cluster: one engine over any backend."""
