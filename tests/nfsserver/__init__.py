"""The worker by itself."""
