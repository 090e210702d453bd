"""What can be asked of a state root, or done to its jobs, without an event loop."""
