"""nfsstat(1): what the server counted, as tables, JSON, a live screen, or for Prometheus."""
