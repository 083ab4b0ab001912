"""NFS_ACL, default ACLs, setgid and sticky directories."""
