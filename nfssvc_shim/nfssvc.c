/* nfssvc.c: nfssvc(2) in its three personalities.
 *
 * Duty: one flag to one message, the caller's record copied in, the reply copied out, errno as the manual pages have it.
 * Exactly one operation a call (OpenBSD's rule; macOS would take the first bit that matches).  Statistics follow the
 * two-iovec convention of macOS: iov[0] the buffer, iov[1] where the needed size goes; never more than the buffer is written,
 * and a header counts the records that were.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "wire.h"

_Static_assert(sizeof(struct nfsd_args) == 24 && sizeof(struct nfs_export_args) == 40, "LP64 layout of nfssvc(2)");
_Static_assert(sizeof(struct nfssvc_xucred) == 76 && sizeof(struct nfs_export_net_args) == 360, "layout of nfssvc(2)");
_Static_assert(sizeof(struct nfs_export_stat_rec) == 1049 && sizeof(struct nfs_user_stat_path_rec) == 1026
               && sizeof(struct nfs_user_stat_user_rec) == 173 && sizeof(struct nfsrvstats) == 488, "statistics of nfssvc(2)");
_Static_assert(sizeof(struct nfsstatsv1) == 4344, "statistics of FreeBSD 12");
_Static_assert(sizeof(struct ext_nfsstats) == 564, "statistics of FreeBSD");

#define SRVSTATS_SIZE sizeof(struct nfsrvstats) /* 488; the reply goes on with records of ours */

static int done(int err)
{
	if (!err)
		return 0;
	errno = err;
	return -1;
}

/* A request whose reply has nothing for the caller. */
static int tell(unsigned flag, struct body *b, const int *fds, unsigned n_fds)
{
	struct nfssvc_msg msg = { .body = b->data, .body_len = b->len, .fds = fds, .n_fds = n_fds };
	int err = b->err ? b->err : nfssvc_exchange(NULL, flag, &msg);
	nfssvc_release(&msg);
	return err;
}

static int tell_u32(unsigned flag, uint32_t value)
{
	struct body b = { 0 };
	nfssvc_put_u32(&b, value);
	int err = tell(flag, &b, NULL, 0);
	free(b.data);
	return err;
}

static int nfsd(void)
{
	struct body none = { 0 };
	return tell(W_NFSD, &none, NULL, 0);
}

static int addsock(const void *argp)
{
	struct nfsd_args args;
	struct body b = { 0 };
	int sock = -1, err = nfssvc_copyin(&args, argp, sizeof args);
	if (!err)
		err = nfssvc_pack_addsock(&b, &args, &sock);
	if (!err)
		err = tell(W_ADDSOCK, &b, &sock, 1);
	free(b.data);
	return err;
}

static int export(const void *argp)
{
	struct body b = { 0 };
	int err = nfssvc_pack_export(&b, argp);
	if (!err)
		err = tell(W_EXPORT, &b, NULL, 0);
	free(b.data);
	return err;
}

/* ---- statistics */

static uint32_t load_u32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return v; }

/* Bytes of whole records that fit in `room`; their number goes into the header.  Exports: all records have one size. */
static size_t fit_exports(unsigned char *data, size_t len, size_t room)
{
	const size_t head = sizeof(struct nfs_export_stat_desc), rec = sizeof(struct nfs_export_stat_rec);
	uint64_t count = ((len < room ? len : room) - head) / rec;
	memcpy(data + offsetof(struct nfs_export_stat_desc, rec_count), &count, sizeof count);
	return head + count * rec;
}

/* The server sends macOS' sockaddr (length byte, family byte, AF_INET6 30); the caller gets the host's. */
static void host_family(unsigned char *record)
{
	unsigned char *sa = record + offsetof(struct nfs_user_stat_user_rec, sock);
	sa_family_t family = sa[1] == 2 ? AF_INET : sa[1] == 30 ? AF_INET6 : AF_UNSPEC;
	memcpy(sa, &family, sizeof family);
}

static size_t fit_users(unsigned char *data, size_t len, size_t room)
{
	size_t at = sizeof(struct nfs_user_stat_desc);
	uint32_t count = 0;
	while (at < len) {
		size_t rec = data[at] == NFS_USER_STAT_PATH_REC ? sizeof(struct nfs_user_stat_path_rec)
		                                                 : sizeof(struct nfs_user_stat_user_rec);
		if (rec > len - at || rec > room - at)
			break;
		if (data[at] == NFS_USER_STAT_USER_REC)
			host_family(data + at);
		at += rec;
		count++;
	}
	memcpy(data + offsetof(struct nfs_user_stat_desc, rec_count), &count, sizeof count);
	return at;
}

static int put_size(const struct iovec *where, size_t size, size_t width)
{
	uint32_t narrow = (uint32_t)size;
	uint64_t wide = size;
	if (!where->iov_base)
		return 0;
	if (where->iov_len < width)
		return EINVAL;
	return nfssvc_copyout(where->iov_base, width == 4 ? (void *)&narrow : (void *)&wide, width);
}

/* EXPORTSTATS and USERSTATS: the size is a 4-byte int and always told. */
static int give_list(unsigned flag, unsigned char *data, size_t len, const struct iovec iov[2])
{
	size_t head = flag == W_EXPORTSTATS ? sizeof(struct nfs_export_stat_desc) : sizeof(struct nfs_user_stat_desc);
	if (len < head || load_u32(data) != 1)
		return EPROTO;
	int err = put_size(&iov[1], len, 4);
	if (err || !iov[0].iov_base)
		return err;
	if (iov[0].iov_len < head)
		return ENOMEM;
	len = flag == W_EXPORTSTATS ? fit_exports(data, len, iov[0].iov_len) : fit_users(data, len, iov[0].iov_len);
	return nfssvc_copyout(iov[0].iov_base, data, len);
}

/* USERCOUNT and SRVSTATS: one record; its size is a size_t, told only when there is no buffer or a short one. */
static int give_record(const unsigned char *data, size_t len, size_t want, const struct iovec iov[2])
{
	if (len < want)
		return EPROTO;
	if (iov[0].iov_base && iov[0].iov_len >= want)
		return nfssvc_copyout(iov[0].iov_base, data, want);
	int err = put_size(&iov[1], want, 8);
	return err ? err : iov[0].iov_base ? ENOMEM : 0;
}

static int statistics(unsigned flag, const void *argp)
{
	struct iovec iov[2];
	uint32_t alone = be(SUMS_ALONE);
	struct nfssvc_msg msg = { .body = &alone, .body_len = flag == W_SRVSTATS ? sizeof alone : 0 };
	int err = nfssvc_copyin(iov, argp, sizeof iov);
	if (!err)
		err = flag == W_SRVSTATS || flag == W_USERCOUNT ? nfssvc_ask_often(flag, &msg) : nfssvc_exchange(NULL, flag, &msg);
	if (err)
		return err;
	if (flag == W_EXPORTSTATS || flag == W_USERSTATS)
		err = give_list(flag, msg.reply, msg.reply_len, iov);
	else
		err = give_record(msg.reply, msg.reply_len, flag == W_SRVSTATS ? SRVSTATS_SIZE : sizeof(uint32_t), iov);
	nfssvc_release(&msg);
	return err;
}

/* ---- our own flags: struct nfssvc_msg */

static int own(unsigned flag, struct nfssvc_msg *argp)
{
	struct nfssvc_msg msg;
	void *body = NULL;
	int fds[NFSSVC_MAXFDS], err = nfssvc_copyin(&msg, argp, sizeof msg);
	if (err)
		return err;
	if (msg.n_fds > NFSSVC_MAXFDS || msg.body_len > 64u << 20)
		return EINVAL;
	if (msg.body_len && !(body = malloc(msg.body_len)))
		return ENOMEM;
	if ((err = nfssvc_copyin(body, msg.body, msg.body_len)) == 0)
		err = nfssvc_copyin(fds, msg.fds, msg.n_fds * sizeof(int));
	const void *body_was = msg.body;
	const int *fds_was = msg.fds;
	msg.body = body;
	msg.fds = fds;
	if (!err && (err = nfssvc_exchange(NULL, flag, &msg)) == 0) {
		msg.body = body_was;
		msg.fds = fds_was;
		if ((err = nfssvc_copyout(argp, &msg, sizeof msg)) != 0)
			nfssvc_release(&msg);
	}
	free(body);
	return err;
}

API int nfssvc_message(const char *path, unsigned flag, struct nfssvc_msg *msg)
{
	return done(nfssvc_exchange(path, flag, msg));
}

/* ---- the call */

static int macos(int flags, void *argp)
{
	struct body none = { 0 };
	switch ((unsigned)flags) {
	case W_NFSD:
		return nfsd(); /* the argument is NULL, or not looked at */
	case W_ADDSOCK:
		return addsock(argp);
	case W_EXPORT:
		return export(argp);
	case W_EXPORTSTATS: case W_USERSTATS: case W_USERCOUNT: case W_SRVSTATS:
		return statistics((unsigned)flags, argp);
	case W_ZEROSTATS:
		return tell(W_ZEROSTATS, &none, NULL, 0);
	case W_GETFH: case W_FHOPEN: case W_STATUS: case W_WORKERS: case W_TRACE: case W_SUSPEND: case W_VERBOSE:
		return own((unsigned)flags, argp);
	default:
		return EINVAL;
	}
}

API int (nfssvc)(int flags, void *argstructp) { return done(macos(flags, argstructp)); }

/* 4.4BSD.  There is no NFS client here: what asks for one is answered as by a kernel built without (ENOSYS).  NFSD with AUTHIN and
 * AUTHINFAIL is in bsd44.c.  A second UDP socket is EPERM there, not EEXIST. */
enum { B_BIOD = 0x002, B_NFSD = 0x004, B_ADDSOCK = 0x008, B_AUTHIN = BSD44_AUTHIN, B_GOTAUTH = 0x040, B_AUTHINFAIL = 0x080, B_MNTD = 0x100 };

static int bsd44(int flags, void *argp)
{
	switch (flags) {
	case B_NFSD: case B_NFSD | B_AUTHIN: case B_NFSD | B_AUTHINFAIL:
		return nfssvc_bsd44_nfsd(flags, argp);
	case B_ADDSOCK: {
		int err = addsock(argp);
		return err == EEXIST ? EPERM : err;
	}
	case B_BIOD: case B_MNTD: case B_MNTD | B_GOTAUTH: case B_MNTD | B_GOTAUTH | B_AUTHINFAIL:
		return ENOSYS;
	default:
		return EINVAL;
	}
}

API int nfssvc_44bsd(int flags, void *argstructp) { return done(bsd44(flags, argstructp)); }

/* FreeBSD 8 and later. */
enum {
	F_NOPUBLICFH = 0x20, F_NFSDNFSD = 0x80, F_NFSDADDSOCK = 0x100, F_GETSTATS = 0x400000, F_ZEROCLTSTATS = 0x1000000,
	F_ZEROSRVSTATS = 0x2000000, F_SUSPENDNFSD = 0x4000000, F_RESUMENFSD = 0x8000000, F_NEWSTRUCT = 0x20000000
};

static int clip(uint64_t count) { return count > INT_MAX ? INT_MAX : (int)count; }

/* The place in srvrpccnt of version 3's procedures 1 to 21, in the order of RFC 1813; those that version 4 has not begin at NOPS,
 * in the newer record at NOPS42. */
enum { PLACES = 21, NOPS = 40, NOPS42 = 72 };
static const unsigned char place[PLACES] = { 9, 34, 15, 3, 27, 25, 38, 48, 41, 40, 44, 28, 42, 29, 11, 26, 43, 45, 46, 47, 5 };

static void freebsd_stats(struct ext_nfsstats *to, const struct nfsrvstats *from)
{
	memset(to, 0, sizeof *to);
	for (size_t i = 0; i < PLACES; i++)
		to->srvrpccnt[place[i]] = clip(from->srvrpccntv3[i + 1]);
	to->srvrpc_errs = clip(from->srvrpc_errs);
	to->srv_errs = clip(from->srv_errs);
	to->srvcache_inproghits = clip(from->srvcache_inproghits);
	to->srvcache_idemdonehits = clip(from->srvcache_idemdonehits);
	to->srvcache_nonidemdonehits = clip(from->srvcache_nonidemdonehits);
	to->srvcache_misses = clip(from->srvcache_misses);
}

static void freebsd_stats_v1(struct nfsstatsv1 *to, const struct nfsrvstats *from)
{
	memset(to, 0, sizeof *to);
	to->vers = NFSSTATS_V1;
	for (size_t i = 0; i < PLACES; i++) {
		size_t at = place[i] < NOPS ? place[i] : place[i] - NOPS + NOPS42;
		to->srvrpccnt[at] = to->srvops[at] = from->srvrpccntv3[i + 1];
		to->srvstartcnt += from->srvrpccntv3[i + 1];
	}
	to->srvdonecnt = to->srvstartcnt;
	to->srvrpc_errs = from->srvrpc_errs;
	to->srv_errs = from->srv_errs;
	to->srvcache_inproghits = from->srvcache_inproghits;
	to->srvcache_idemdonehits = from->srvcache_idemdonehits;
	to->srvcache_nonidemdonehits = from->srvcache_nonidemdonehits;
	to->srvcache_misses = from->srvcache_misses;
}

/* The record that the caller wants; EPERM for a version that is not known, as FreeBSD. */
static int give_freebsd(void *argp, int newer, const struct nfsrvstats *counters)
{
	union { struct ext_nfsstats old; struct nfsstatsv1 v1; } stats;
	int vers, err;
	if (!newer) {
		freebsd_stats(&stats.old, counters);
		return nfssvc_copyout(argp, &stats, sizeof stats.old);
	}
	if ((err = nfssvc_copyin(&vers, argp, sizeof vers)) != 0)
		return err;
	if (vers != NFSSTATS_V1)
		return EPERM;
	freebsd_stats_v1(&stats.v1, counters);
	return nfssvc_copyout(argp, &stats, sizeof stats.v1);
}

/* GETSTATS; with ZEROSRVSTATS the counters are zeroed after they were read, which needs the right to. */
static int freebsd_getstats(int flags, void *argp)
{
	struct nfsrvstats counters;
	struct body none = { 0 };
	uint32_t alone = be(SUMS_ALONE);
	struct nfssvc_msg msg = { .body = &alone, .body_len = sizeof alone };
	int err = nfssvc_ask_often(W_SRVSTATS, &msg);
	if (!err && msg.reply_len < SRVSTATS_SIZE)
		err = EPROTO;
	if (!err) {
		memcpy(&counters, msg.reply, sizeof counters);
		err = give_freebsd(argp, flags & F_NEWSTRUCT, &counters);
	}
	nfssvc_release(&msg);
	return err || !(flags & F_ZEROSRVSTATS) ? err : tell(W_ZEROSTATS, &none, NULL, 0);
}

static int freebsd_nfsd(const void *argp)
{
	struct nfsd_nfsd_args args;
	if (!argp)
		return EINVAL;
	int err = nfssvc_copyin(&args, argp, sizeof args);
	return err ? err : nfsd();
}

static int freebsd(int flags, void *argp)
{
	if (flags & F_GETSTATS && !(flags & ~(F_GETSTATS | F_ZEROCLTSTATS | F_ZEROSRVSTATS | F_NEWSTRUCT)))
		return freebsd_getstats(flags, argp);
	switch (flags) {
	case F_NFSDNFSD:
		return freebsd_nfsd(argp);
	case F_NFSDADDSOCK: {
		int err = addsock(argp);
		return err == ENOTSOCK ? EPERM : err;
	}
	case F_SUSPENDNFSD:
		return tell_u32(W_SUSPEND, 1);
	case F_RESUMENFSD:
		return tell_u32(W_SUSPEND, 0);
	case F_NOPUBLICFH:
		return 0; /* a public handle exists only where an export says so */
	default:
		return EINVAL;
	}
}

API int nfssvc_freebsd(int flags, void *argstructp) { return done(freebsd(flags, argstructp)); }
