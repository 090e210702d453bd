"""What a host can call and read: tools and resources, and the shape of their answers."""
