"""NFS version 2."""
