"""NFSv3 as a client sees it: RFC 1813 over the wire against a running server set."""
