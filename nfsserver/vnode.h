/* vnode.h: the worker's kernel half: objects, exports, identities, vnode operations.
 *
 * Python decides (which export, which identity, read-only, retransmission), C does what one vnode operation in a kernel
 * would do: the system calls, and the XDR of the result straight into the reply.  One worker a process: struct worker W.
 * Only the loop's thread touches W; pool threads (pool.c) see their own job and nothing else.
 *
 * What a vnode call returns:
 *   0            the reply is complete
 *   > 0          an nfsstat3: the caller ends the call with vn_fail(c, status)
 *   V_* (< 0)    see below
 */
#ifndef NFSSERVER_VNODE_H
#define NFSSERVER_VNODE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "../oncrpc/rpc.h"
#include "state.h"

#define V_GRANT (-2)    /* no grant for (peer, credential, export) yet: Python matches, vn_grant(), again */
#define V_GARBAGE (-3)  /* the arguments do not decode */
#define V_PENDING (-4)  /* the call was detached; done() ends it */
#define V_DROP (-5)     /* no reply: the first of this retransmission still runs, or no memory */
#define V_FS (-6)       /* the handle names a file system below a crossmnt export that is not known yet */
#define V_REPLAYED (-8) /* answered from the duplicate request cache */
#define V_WAITS (-9)    /* a copy of the call is with a thread; then the row runs again, with that (V_AGAIN) */
#define V_AGAIN (-10)
#define V_HOST (-11)    /* the export has tags, and what the client is called is not known: Python asks, vn_host(), again */
#define V_STALLED (-7)  /* the export table is older than the generation in force: not before the new one came */

#define FH_MAX 64
#define FH_MAC 8
#define FH_PATH 1       /* flags in a handle: path scheme, */
#define FH_ROOT 4       /* the root of a removable export, whatever medium is in */
#define FH_PASSWORD 2   /* the export has a password, which is in the MAC */

/* nfsstat3 that C itself decides on; everything else comes from the errno table that Python passes in. */
enum { OK = 0, ERR_PERM = 1, ERR_NOENT = 2, ERR_IO = 5, ERR_NXIO = 6, ERR_ACCES = 13, ERR_EXIST = 17, ERR_XDEV = 18, ERR_NOTDIR = 20,
       ERR_ISDIR = 21, ERR_INVAL = 22, ERR_FBIG = 27, ERR_NOSPC = 28, ERR_ROFS = 30, ERR_NAMETOOLONG = 63, ERR_NOTEMPTY = 66,
       ERR_STALE = 70, ERR_BADHANDLE = 10001, ERR_NOT_SYNC = 10002, ERR_BAD_COOKIE = 10003, ERR_NOTSUPP = 10004,
       ERR_TOOSMALL = 10005, ERR_SERVERFAULT = 10006, ERR_BADTYPE = 10007, ERR_JUKEBOX = 10008 };

/* Flags of an export: nfssvc_shim.flags.Ex. */
enum { EX_ASYNC = 1, EX_CROSSMNT = 2, EX_REMOVABLE = 4, EX_SUBTREE = 8, EX_PUBLIC = 0x10, EX_PATHFH = 0x20, EX_NORDIRPLUS = 0x40,
       EX_OFFLINE = 0x100, EX_NOACL = 0x200, EX_READABLE_EXEC = 0x400, EX_SINGLEUSER = 0x800, EX_FILEID32 = 0x1000,
       EX_BRUTEFORCE = 0x2000, EX_REGULAR = 0x4000, EX_CLUSTER = 0x8000 };

/* call.rights: what the grant says. */
enum { R_READONLY = 1, R_INSECURE_OK = 2, R_SQUASHED = 4, R_CLIENTS32 = 8 };

struct ident { u32 serial, uid, gid, n; u32 *gids; u32 used; };

/* For whom a file system keeps blocks, besides root (mount options resuid, resgid of ext4); gid 0: for no group. */
struct keeper { u32 uid, gid; };

struct filesystem {
	u8 fsid[8];
	u64 dev;
	int mntfd;        /* O_RDONLY directory on it: for open_by_handle_at */
	int mntid;
	u8 handle_id[8];  /* what stands for it in handles: fsid, or of a removable one the medium's */
	u8 removable, absent;
	u8 path_scheme;   /* kernel handles do not make the round trip here */
	u8 nowait;         /* how to read without waiting: enum, data.c; 0 unknown */
	u64 slow_until, watch_until; /* CLOCK_MONOTONIC ns; cold.c */
	u64 second_ns, blocked_ns; /* when the second began, and for how long its calls blocked; cold.c */
	u64 synced_ns, apart_until; /* the last sync, and until when none is the loop's; here.c */
	u32 streak;        /* quick syncs one after the other; here.c */
	u8 writers;        /* does it matter who writes: enum, data.c; 0 unknown */
	u64 maxfile;       /* largest size of a file, facts.c; 0 unknown */
	struct keeper keeper;
};

struct export {
	u32 id, flags;
	i32 fs;
	int rootfd;       /* O_PATH of the exported directory */
	int mntid;        /* its mount, where that is another than the file system's; else -1 */
	u64 root_dev, root_ino;
	u64 salt;         /* hash of the password, 0 without one */
	u32 row;          /* in the shared table of export statistics */
	char *path;
	char *index;      /* -index, NULL without */
	u8 rootfh[FH_MAX];
	u8 rootfh_len;
	u8 is_dir;
	u8 borrowed;      /* in a table that is being made: rootfd is still the old table's */
	u8 moved;         /* another directory, or another mount, than in the old table */
	u8 lent;          /* an object has rootfd, too */
};

struct obj {
	u8 fh[FH_MAX];
	u8 fhlen, type;          /* type: S_IFMT >> 12 */
	u8 dirty;                /* unstable writes through wfd that no COMMIT has made safe */
	u8 used;
	u8 unlisted;             /* retired while it was pinned: not in the hash, goes with the last pin */
	u8 lent;                 /* fd is the export's rootfd; then it is not in the LRU list */
	u16 up;                  /* steps to the export's root when it was found, a guess since then; 0: not known */
	u32 hash, serial, pins;
	u32 unstable;            /* how many unstable writes there were: a COMMIT makes those safe that it found */
	i32 next, lru_prev, lru_next;
	i32 exp, fs;
	u32 expid, exp_gen;
	int fd, rfd, wfd;
	u32 touched;             /* seconds, CLOCK_MONOTONIC */
	u32 unsealed_s;          /* when, and at which ctime, it was seen neither immutable nor append-only */
	u64 unsealed;
	u64 written_from, written_to; /* ctimes between which only our own WRITEs changed it; obj_written() */
	u64 bare;                /* settled ctime at which it had no ACLs of these kinds (bits, acl.c) */
	u8 bare_kinds;
	u64 ino;
	u64 unsynced;            /* bytes of unstable writes since it was last clean */
};

#define V_ROFS 8 /* in verdict.known: the file system is read-only */
/* bits of known, may: R_OK W_OK X_OK.  settled: a change after it shows in the ctime; asked_s: when, CLOCK_MONOTONIC seconds;
 * mode, uid, gid, acl: the object's then, for two changes in one tick of the file system's clock have one ctime; acl 0: not known */
struct verdict { u32 obj_serial, ident_serial; u64 ctime_ns; u32 asked_s, uid, gid, acl; u16 mode; u8 known, may, settled; };
struct grant { u32 peer, cred, expid, ident, rights, user; u64 user_serial; };  /* user: row + 1 of the active user, 0: none */

#define N_OBJ_HASH 16384
#define MIN_OBJS 64      /* objects for which there are descriptors whoever holds the others: the calls under way need theirs */
#define N_VERDICT 16384
#define N_GRANT 65536 /* 10,000 exports and a few callers of each.  Pages that nobody used take no memory */
#define GRANT_WAYS 4  /* places for one key: of 10,000 grants in pairs 380 pushed each other out, and each miss is a turn of Python */
#define N_IDENT 4096
#define N_FS 1024

struct worker {
	u64 *state;              /* the shared state file as words */
	u64 *row;                /* our slot's row in it */
	u32 slot, incarnation;
	u64 key[2];
	int root;                /* identities are switched */
	int procfd;              /* O_PATH of /proc/self/fd */
	u32 generation;          /* of our export table */
	struct export *exps;
	u32 n_exps;
	struct filesystem fs[N_FS];
	u32 n_fs;
	struct obj *objs;
	u32 max_objs, n_objs, n_lent, objs_used, obj_serial; /* max_objs: of those that have a descriptor of their own */
	u64 max_files;           /* descriptors of exports, connections, objects and open files together */
	u32 max_data;            /* descriptors open for reading or writing */
	i32 obj_free, lru_head, lru_tail;
	i32 hash[N_OBJ_HASH];
	struct verdict *verdicts;
	struct grant *grants;
	struct ident idents[N_IDENT];
	u32 n_idents, ident_serial, ident_clock;
	u32 now_s;
	u64 wall_s;              /* CLOCK_REALTIME, of the last tick */
	int nfsstat[256];        /* errno -> nfsstat3 */
};
extern struct worker W;

/* The generation of export tables in force: raised before anybody is told that a table is. */
static inline u32 generation_due(void) { return (u32)atomic_load_explicit((_Atomic u64 *)&W.state[H_GENERATION], memory_order_acquire); }

/* fstat(2).  glibc before 2.39 makes it newfstatat(fd, "", AT_EMPTY_PATH), which copies and checks a string each time: twice the
 * price.  On 64-bit machines the kernel's struct stat is glibc's. */
static inline int fd_stat(int fd, struct stat *st)
{
#if defined(SYS_fstat) && __SIZEOF_LONG__ == 8
	return (int)syscall(SYS_fstat, fd, st);
#else
	return fstat(fd, st);
#endif
}

/* Sizes of XDR that several results share. */
#define ATTR 84                 /* fattr3 */
#define POST (4 + ATTR)         /* post_op_attr */
#define WCC (4 + 24 + POST)     /* wcc_data */
#define FH3 (4 + FH_MAX)
#define UDPMAX 32768u           /* over UDP: a reply with its headers stays under 64 KiB */
#define RTMAX (1u << 20)        /* rtmax, wtmax over TCP */
#define DTPREF (256u << 10)     /* 6,500 names take 2 ms, in which nobody else of the connection's worker is served */
#define READ_HEAD (4 + POST + 12) /* READ3resok before its data */
static inline u32 transfer_max(const struct call *c) { return c->proto == RPC_UDP ? UDPMAX : RTMAX; }

static inline u64 clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static inline u64 ns_of(const struct timespec *t) { return (u64)t->tv_sec * 1000000000u + (u64)t->tv_nsec; }

/* How old a ctime must be for a later change to show in it: a tick of the clock, or what file systems with whole seconds have. */
static inline u64 settle_ns(const struct stat *st) { return st->st_ctim.tv_nsec ? 10000000u : 2000000000u; }

/* Handles by the path scheme: where kernel handles do not work, and where the place of an object is looked at (subtree_check). */
static inline int by_path(i32 exp, i32 fs) { return W.fs[fs].path_scheme || W.exps[exp].flags & EX_SUBTREE; }
static inline int is_dir(i32 o) { return W.objs[o].type == S_IFDIR >> 12; }
static inline int is_reg(i32 o) { return W.objs[o].type == S_IFREG >> 12; }
static inline int is_link(i32 o) { return W.objs[o].type == S_IFLNK >> 12; }
static inline int is_dots(const char *name) { return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])); }

struct sattr { u8 set_mode, set_uid, set_gid, set_size, atime, mtime; u32 mode, uid, gid; u64 size; struct timespec at, mt; };

#define N_DIRLOCKS 4096
typedef _Atomic u64 shared_lock; /* 0, or incarnation << 8 | slot + 1 */

/* The object that changes, by its O_PATH descriptor and what its lock is found by; has_pre -1: no attributes from after. */
struct change { i32 dir; int fd; u64 dev, ino; shared_lock *lock; struct stat pre, post; int has_pre, over; };

enum { DEED_CREATE, DEED_MKDIR, DEED_SYMLINK, DEED_MKNOD, DEED_REMOVE, DEED_RMDIR, DEED_RENAME, DEED_LINK, DEED_SETATTR };

/* A change: what is to be done, and what came of it. */
struct deed {
	int kind;
	int (*op)(struct call *);    /* the procedure, which runs once more after a thread did it */
	const char *name, *name2;    /* name2: RENAME's other, SYMLINK's target */
	int file, wfd;               /* LINK: O_PATH of the file; SETATTR with a size: the file for writing */
	u32 mode, uid;
	dev_t dev;
	struct sattr s;
	u8 exclusive, verf[8], fsid[8];
	u8 guarded, wants_victim, link; /* link: the object is a symbolic one */
	u32 guard_s, guard_ns;
	/* what came of it */
	struct change a, b;          /* b.dir -1: there is only one */
	int made, err;               /* the new file, open for writing, or what else a thread made, O_PATH; an errno */
	int not_sync, times_left;    /* the guard did not hold; sattr_set() left the times */
	struct { struct file_handle h; u8 room[128]; } victim; /* handle_bytes 0: none */
};

struct durable { int fd, fd2, whole, waits; }; /* what to sync; whole: fd's file system; waits: the reply goes through the pool */
#define NOTE (1ull << 63)           /* call.word[1]: something was noted; the name was there, and its inode */
#define NOTE_THERE (1ull << 62)
#define NOTE_INO (NOTE_THERE - 1)

struct write { u64 offset, verf; u32 count, stable; const u8 *data; int alike; struct keeper keeper; };
/* verf: from before; alike: any user may do it but the keeper */

#define NFS_PROGRAM 100003u
#define ACL_PROGRAM 100227u
#define WAITED 8       /* call.state: it has waited for something to be opened */
#define WAIT_ROOM 1024 /* of its reply until then; it grows if need be */
#define NOT_OPENED (-4096)
#endif
