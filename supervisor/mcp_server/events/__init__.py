"""The events extension of the protocol, which is a draft: poll, push and webhooks. Off by default."""
