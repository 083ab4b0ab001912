"""The NFS server proper: what BSD keeps in sys/nfs.  Runs only in workers, which the master starts (python -I -m nfsserver)."""
