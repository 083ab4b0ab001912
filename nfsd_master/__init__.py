"""nfsd(8): options, the master, its control half, and the unfsd(8) front end.

master.py     root: binds, keeps descriptors, starts and reaps the others; parses nothing
control.py    no privilege: accepts connections, answers the call socket, holds the export table
"""
VERSION = "0.1.0"
