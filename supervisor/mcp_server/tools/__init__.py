"""The tools and resources of a server, and the shape of their answers."""
