"""Names of procedures and errors, in the spellings that each layout prints.

Source: nfsstat(1) of macOS, 4.4BSD and Linux; RFC 1813.  Called by: every layout.
"""
from __future__ import annotations

PROCEDURES = ("null", "getattr", "setattr", "lookup", "access", "readlink", "read", "write", "create", "mkdir", "symlink",
              "mknod", "remove", "rmdir", "rename", "link", "readdir", "readdirplus", "fsstat", "fsinfo", "pathconf", "commit")
PROCEDURES2 = ("null", "getattr", "setattr", "root", "lookup", "readlink", "read", "wrcache", "write", "create", "remove",
               "rename", "link", "symlink", "mkdir", "rmdir", "readdir", "fsstat")

# BSD's and macOS' titles in the order of their tables, with the number of the procedure.
BSD = (("Getattr", 1), ("Setattr", 2), ("Lookup", 3), ("Readlink", 5), ("Read", 6), ("Write", 7), ("Create", 8), ("Remove", 12),
       ("Rename", 14), ("Link", 15), ("Symlink", 10), ("Mkdir", 9), ("Rmdir", 13), ("Readdir", 16), ("RdirPlus", 17),
       ("Access", 4), ("Mknod", 11), ("Fsstat", 18), ("Fsinfo", 19), ("PathConf", 20), ("Commit", 21))
READ, WRITE = 6, 7

# errs_common[30] of struct nfsrvstats, then errs_unknown.
ERRORS = ("OK", "PERM", "NOENT", "IO", "NXIO", "ACCES", "EXIST", "XDEV", "NODEV", "NOTDIR", "ISDIR", "INVAL", "FBIG", "NOSPC",
          "ROFS", "MLINK", "NAMETOL", "NOTEMPTY", "DQUOT", "STALE", "REMOTE", "WFLUSH", "BADHANDLE", "NOT_SYNC", "BAD_COOKIE",
          "NOTSUPP", "TOOSMALL", "SERVERFAULT", "BADTYPE", "DELAY", "UNKNOWN")
