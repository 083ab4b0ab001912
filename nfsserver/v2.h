/* v2.h: what the two directions of version 2 share: v2.c, v2_result.c. */
#ifndef NFSSERVER_V2_H
#define NFSSERVER_V2_H
#include "parts.h"

#define MAXDATA 8192u
#define MAXPATH 1024u
#define MAXNAME 1024u /* decoded; over 255 the answer is NAMETOOLONG */
#define FHSIZE 32u
#define ASKED 16 /* call.rights, from this bit on: bytes that a WRITE brought */

enum { GETATTR = 1, SETATTR = 2, LOOKUP = 4, READLINK = 5, READ = 6, WRITE = 8, CREATE = 9, REMOVE = 10, RENAME = 11, LINK = 12,
       SYMLINK = 13, MKDIR = 14, RMDIR = 15, READDIR = 16, STATFS = 17, N_PROCS2 = 18 };
#endif
