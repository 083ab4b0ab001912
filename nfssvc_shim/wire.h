/* wire.h: what the files of libnfssvc share and its users do not see.  Functions return 0 or an errno. */
#ifndef NFSSVC_WIRE_H
#define NFSSVC_WIRE_H
#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>

#include "nfssvc.h"

#define API __attribute__((visibility("default")))

/* What a message begins with: PROTOCOL.md, section 2. */
#define MAGIC 0x4E465356u
#define VERSION 1u
#define BY_MEMFD 0x80000000u
#define be(v) htonl(v) /* both ways */
struct header { uint32_t magic, version, flag, serial, error, length; };

#define SUMS_ALONE 1u /* body of SRVSTATS: the 488 bytes without the workers' rows */

/* Flags on the wire: nfssvc_shim/flags.py has the list. */
enum {
	W_NFSD = 0x004, W_ADDSOCK = 0x008, W_EXPORTSTATS = 0x010, W_USERSTATS = 0x020, W_USERCOUNT = 0x040,
	W_ZEROSTATS = 0x080, W_SRVSTATS = 0x100, W_EXPORT = 0x200, W_GETFH = 0x10000, W_FHOPEN = 0x20000,
	W_STATUS = 0x100000, W_WORKERS = 0x200000, W_TRACE = 0x400000, W_SUSPEND = 0x800000, W_VERBOSE = 0x1000000,
	W_NEEDAUTH = 0x20000000, W_AUTHIN = 0x40000000
};

/* copy.c: the caller's memory, touched by the kernel so that a bad pointer is EFAULT and no crash. */
int nfssvc_copyin(void *dst, const void *src, size_t n);
int nfssvc_copyout(void *dst, const void *src, size_t n);
int nfssvc_copyinstr(char *dst, const char *src, size_t size); /* ENAMETOOLONG: no NUL in `size` bytes */

/* xdr.c: a body that grows; the first failure (ENOMEM) sticks in err. */
struct body {
	unsigned char *data;
	size_t len, room;
	int err;
};
void nfssvc_put_u32(struct body *b, uint32_t v);
void nfssvc_put_opaque(struct body *b, const void *data, size_t n);

/* records.c: C records of the caller to bodies. */
int nfssvc_pack_addsock(struct body *b, const struct nfsd_args *args, int *sock);
int nfssvc_pack_export(struct body *b, const void *argp);

/* channel.c: one request, one reply.  `msg` holds pointers that are ours, not the caller's. */
int nfssvc_open(const char *path, unsigned flag, int *sock);
/* A request and what comes for it over a connection that stays the caller's.  *came: `flag`; while NFSD waits (after it and AUTHIN)
 * NFSD or NEEDAUTH */
int nfssvc_talk(int sock, unsigned flag, struct nfssvc_msg *msg, unsigned *came);
int nfssvc_exchange(const char *path, unsigned flag, struct nfssvc_msg *msg);
void nfssvc_release(struct nfssvc_msg *msg); /* frees the reply, closes its descriptors */

/* kept.c: as nfssvc_exchange(NULL, ...), for what every user may ask and what may be asked twice. */
int nfssvc_ask_often(unsigned flag, struct nfssvc_msg *msg);

/* bsd44.c */
int nfssvc_bsd44_nfsd(int flags, void *argp);
#define BSD44_AUTHIN 0x010
#endif
