"""What several tests use: clients, servers, captures."""
