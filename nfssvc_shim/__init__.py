"""nfssvc(2) for a server in user space: the flags, the records, the channel, and the call itself."""
