/* nfssvc.h: nfssvc(2) for an NFS server in user space.
 *
 * One call, one flag, one record a flag; the numbers and records of macOS 12 and later, LP64.  Two other personalities
 * share bits with it under other meanings, so they are other symbols, chosen by a macro before this header is included:
 *
 *     #define NFSSVC_PERSONALITY_44BSD     nfssvc() is nfssvc_44bsd(): numbers and records of 4.4BSD, OpenBSD and NetBSD
 *     #define NFSSVC_PERSONALITY_FREEBSD   nfssvc() is nfssvc_freebsd(): numbers and records of FreeBSD 8 and later
 *
 * Differences from the kernels' calls: sockaddr records are the host's (Linux: no sa_len; family AF_UNSPEC where macOS
 * has ss_len 0), and ENEEDAUTH is this header's constant, not the host's errno.  See nfssvc(2).
 */
#ifndef NFSSVC_H
#define NFSSVC_H
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

int nfssvc(int flags, void *argstructp);
int nfssvc_44bsd(int flags, void *argstructp);
int nfssvc_freebsd(int flags, void *argstructp);

/* BSD's numbers for two errors that Linux does not have. */
#define NFSSVC_ENEEDAUTH 81
#define NFSSVC_EAUTH 80

/* ---- records that all personalities share */

struct nfsd_args {
	int sock;    /* socket to serve */
	char *name;  /* peer of a connected stream socket; NULL for a datagram socket */
	int namelen; /* length of name */
};

/* Argument of the flags from 0x10000 on, which are ours: an encoded body and descriptors out, the same back. */
#define NFSSVC_MAXFDS 64
struct nfssvc_msg {
	const void *body;      /* XDR, as PROTOCOL.md has it */
	size_t body_len;
	const int *fds;
	unsigned n_fds;
	unsigned n_reply_fds;  /* out; the caller closes them */
	void *reply;           /* out: free(3) it; NULL when the reply has no body */
	size_t reply_len;      /* out */
	int reply_fds[NFSSVC_MAXFDS]; /* out: close-on-exec */
};

/* The same for any flag, over the call socket at `path` (NULL: the usual search).  0, or -1 with errno. */
int nfssvc_message(const char *path, unsigned flag, struct nfssvc_msg *msg);

/* ---- macOS */

struct nfssvc_xucred { /* xucred: 76 bytes */
	uint32_t cr_version;
	uint32_t cr_uid;
	int16_t cr_ngroups;
	uint32_t cr_groups[16]; /* the first is the gid */
};

struct nfs_sec {
	int count;
	uint32_t flavors[5]; /* 1 sys; best first */
};

struct nfs_export_net_args { /* 360 bytes */
	uint32_t nxna_flags;               /* NX_* */
	struct nfssvc_xucred nxna_cred;    /* for NX_MAPROOT or NX_MAPALL */
	struct sockaddr_storage nxna_addr; /* AF_UNSPEC: everyone (NX_DEFAULTEXPORT) */
	struct sockaddr_storage nxna_mask; /* AF_UNSPEC: one host */
	struct nfs_sec nxna_sec;
};

struct nfs_export_args { /* 40 bytes */
	uint32_t nxa_fsid;     /* export FS ID; 0: the server works it out */
	uint32_t nxa_expid;    /* export ID, not 0 */
	char *nxa_fspath;      /* export FS path */
	char *nxa_exppath;     /* export sub-path, "" or "." for the root of the file system */
	uint32_t nxa_flags;    /* NXA_* */
	uint32_t nxa_netcount; /* entries in nxa_nets */
	struct nfs_export_net_args *nxa_nets;
};

#define NXA_DELETE 0x0001
#define NXA_ADD 0x0002
#define NXA_REPLACE 0x0003
#define NXA_DELETE_ALL 0x0004
#define NXA_OFFLINE 0x0008
#define NXA_CHECK 0x0010

#define NX_READONLY 0x0001
#define NX_DEFAULTEXPORT 0x0002
#define NX_MAPROOT 0x0004
#define NX_MAPALL 0x0008
#define NX_32BITCLIENTS 0x0020
#define NX_OFFLINE 0x0040
#define NX_MANGLEDNAMES 0x0080

/* What the statistics flags write, packed, in the host's byte order. */
#define NFS_EXPORT_STAT_REC_VERSION 1
#define NFS_USER_STAT_REC_VERSION 1
#define NFS_USER_STAT_USER_REC 0
#define NFS_USER_STAT_PATH_REC 1
#pragma pack(push, 1)
struct nfs_export_stat_desc {
	uint32_t rec_vers;
	uint64_t rec_count;
};
struct nfs_export_stat_rec { /* 1049 bytes */
	char path[1025];
	uint64_t ops;
	uint64_t bytes_read;
	uint64_t bytes_written;
};
struct nfs_user_stat_desc {
	uint32_t rec_vers;
	uint32_t rec_count;
};
struct nfs_user_stat_path_rec { /* 1026 bytes */
	uint8_t rec_type;
	char path[1025];
};
struct nfs_user_stat_user_rec { /* 173 bytes */
	uint8_t rec_type;
	uint32_t uid;
	struct sockaddr_storage sock;
	uint64_t ops;
	uint64_t bytes_read;
	uint64_t bytes_written;
	int64_t tm_start;
	int64_t tm_last;
};
#pragma pack(pop)

struct nfsrvstats { /* 61 x 8 = 488 bytes */
	uint64_t srvrpccntv3[23];
	uint64_t srvrpc_errs;
	uint64_t srv_errs;
	uint64_t srvcache_inproghits;
	uint64_t srvcache_idemdonehits;
	uint64_t srvcache_nonidemdonehits;
	uint64_t srvcache_misses;
	uint64_t srvvop_writes;
	uint64_t errs_common[30];
	uint64_t errs_unknown;
};

/* ---- 4.4BSD */

struct nfsd_srvargs {
	void *nsd_nfsd;
	uint32_t nsd_uid;
	uint32_t nsd_haddr;
	struct nfssvc_xucred nsd_cr;
	int nsd_authlen;
	unsigned char *nsd_authstr;
	int nsd_verflen;
	unsigned char *nsd_verfstr;
	struct { int64_t tv_sec, tv_usec; } nsd_timestamp;
	uint32_t nsd_ttl;
};

/* ---- FreeBSD */

struct nfsd_nfsd_args { /* the part without NEWSTRUCT */
	const char *principal;
	int minthreads;
	int maxthreads;
};
#define nfsd_addsock_args nfsd_args

/* Argument of GETSTATS without NEWSTRUCT.  The client's fields and those of version 4 stay 0; counts stop at INT_MAX.
 * srvrpccnt is indexed by the numbers of version 4's operations, and from 40 on by what only version 3 has. */
struct ext_nfsstats { /* 564 bytes */
	int attrcache_hits, attrcache_misses, lookupcache_hits, lookupcache_misses, direofcache_hits, direofcache_misses;
	int accesscache_hits, accesscache_misses, biocache_reads, read_bios, read_physios, biocache_writes, write_bios;
	int write_physios, biocache_readlinks, readlink_bios, biocache_readdirs, readdir_bios;
	int rpccnt[41];
	int rpcretries;
	int srvrpccnt[49];
	int srvrpc_errs, srv_errs;
	int rpcrequests, rpctimeouts, rpcunexpected, rpcinvalid;
	int srvcache_inproghits, srvcache_idemdonehits, srvcache_nonidemdonehits, srvcache_misses, srvcache_tcppeak, srvcache_size;
	int srvclients, srvopenowners, srvopens, srvlockowners, srvlocks, srvdelegates;
	int cbrpccnt[5];
	int clopenowners, clopens, cllockowners, cllocks, cldelegates;
	int cllocalopenowners, cllocalopens, cllocallockowners, cllocallocks;
};

/* Argument of GETSTATS with NEWSTRUCT: version 1, as FreeBSD 12 has it and later ones know as the old one.  The caller sets vers.
 * Of the server's fields srvbytes, srvduration, busyfrom and busytime stay 0. */
#define NFSSTATS_V1 1
struct nfssvc_bintime { int64_t sec; uint64_t frac; };
struct nfsstatsv1 { /* 4,344 bytes */
	int vers;
	uint64_t attrcache_hits, attrcache_misses, lookupcache_hits, lookupcache_misses, direofcache_hits, direofcache_misses;
	uint64_t accesscache_hits, accesscache_misses, biocache_reads, read_bios, read_physios, biocache_writes, write_bios;
	uint64_t write_physios, biocache_readlinks, readlink_bios, biocache_readdirs, readdir_bios;
	uint64_t rpccnt[69];
	uint64_t rpcretries;
	uint64_t srvrpccnt[81]; /* by version 4.2's operations; from 72 on what only version 3 has */
	uint64_t srvrpc_errs, srv_errs;
	uint64_t rpcrequests, rpctimeouts, rpcunexpected, rpcinvalid;
	uint64_t srvcache_inproghits, srvcache_idemdonehits, srvcache_nonidemdonehits, srvcache_misses, srvcache_tcppeak;
	int srvcache_size;
	uint64_t srvclients, srvopenowners, srvopens, srvlockowners, srvlocks, srvdelegates;
	uint64_t cbrpccnt[16];
	uint64_t clopenowners, clopens, cllockowners, cllocks, cldelegates;
	uint64_t cllocalopenowners, cllocalopens, cllocallockowners, cllocallocks;
	uint64_t srvstartcnt, srvdonecnt;
	uint64_t srvbytes[81], srvops[81];
	struct nfssvc_bintime srvduration[81], busyfrom, busytime;
};

/* ---- numbers */

#if defined(NFSSVC_PERSONALITY_44BSD)
#define nfssvc nfssvc_44bsd
#define NFSSVC_BIOD 0x002
#define NFSSVC_NFSD 0x004
#define NFSSVC_ADDSOCK 0x008
#define NFSSVC_AUTHIN 0x010
#define NFSSVC_GOTAUTH 0x040
#define NFSSVC_AUTHINFAIL 0x080
#define NFSSVC_MNTD 0x100
#define RPCAUTH_MAXSIZ 400 /* room at nsd_authstr and nsd_verfstr */
#define RPCAUTH_KERB4 4
#ifndef ENEEDAUTH
#define ENEEDAUTH 81 /* BSD's number; Linux has none of that name */
#endif
#elif defined(NFSSVC_PERSONALITY_FREEBSD)
#define nfssvc nfssvc_freebsd
#define NFSSVC_NOPUBLICFH 0x00000020
#define NFSSVC_STABLERESTART 0x00000040
#define NFSSVC_NFSDNFSD 0x00000080
#define NFSSVC_NFSDADDSOCK 0x00000100
#define NFSSVC_GETSTATS 0x00400000
#define NFSSVC_BACKUPSTABLE 0x00800000
#define NFSSVC_ZEROCLTSTATS 0x01000000
#define NFSSVC_ZEROSRVSTATS 0x02000000
#define NFSSVC_SUSPENDNFSD 0x04000000
#define NFSSVC_RESUMENFSD 0x08000000
#define NFSSVC_NEWSTRUCT 0x20000000
#else
#define NFSSVC_NFSD 0x004
#define NFSSVC_ADDSOCK 0x008
#define NFSSVC_EXPORTSTATS 0x010
#define NFSSVC_USERSTATS 0x020
#define NFSSVC_USERCOUNT 0x040
#define NFSSVC_ZEROSTATS 0x080
#define NFSSVC_SRVSTATS 0x100
#define NFSSVC_EXPORT 0x200
/* Ours; argument struct nfssvc_msg. */
#define NFSSVC_GETFH 0x0010000
#define NFSSVC_FHOPEN 0x0020000
#define NFSSVC_STATUS 0x0100000
#define NFSSVC_WORKERS 0x0200000
#define NFSSVC_TRACE 0x0400000
#define NFSSVC_SUSPEND 0x0800000
#define NFSSVC_VERBOSE 0x1000000
#endif

#ifdef __cplusplus
}
#endif
#endif
