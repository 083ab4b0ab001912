"""portmap(8) and rpcinfo(8): PMAP version 2, rpcbind versions 3 and 4 (RFC 1833).  Imports oncrpc only."""
