"""ONC RPC (RFC 5531): XDR, messages, the one server loop that every daemon runs, clients.  Imports nothing of ours.

Nothing is imported here, so that a process pays for what it uses.
"""
