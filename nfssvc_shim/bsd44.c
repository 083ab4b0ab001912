/* bsd44.c: NFSSVC_NFSD of 4.4BSD, whose daemon tells the kernel whose Kerberos ticket a request carries.
 *
 * Theory of operation.  The call lends a slot and waits.  When a worker has a call with AUTH_KERB4, the server sends NEEDAUTH on
 * that connection, with NFSD's serial, and the call fails with ENEEDAUTH: the record has the client, the ticket and the verifier.
 * The daemon calls again with AUTHIN and a credential, or with AUTHINFAIL; that goes out as a message of its own on the same
 * connection, which was kept meanwhile under nsd_nfsd, and the call waits on.  Another end of the connection ends the slot.
 * A daemon whose record has no room for a ticket (nsd_authstr NULL) is asked nothing.
 *
 * Source: sys/nfs/nfs_syscalls.c of 4.4BSD, nfssvc(2).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NFSSVC_PERSONALITY_44BSD
#include "wire.h"
#undef nfssvc

#define MAX_WAITING 64 /* daemons of one process that hold a question: as many as there are slots */

/* Connections whose daemon holds a question.  sock: descriptor + 1, 0 free, -1 being filled. */
static struct { atomic_int sock; uint32_t number; } waiting[MAX_WAITING];

/* Keeps a connection; what stands for it in nsd_nfsd, NULL: no place. */
static void *keep(int sock, uint32_t number)
{
	for (uintptr_t i = 0; i < MAX_WAITING; i++) {
		int free_place = 0;
		if (atomic_compare_exchange_strong(&waiting[i].sock, &free_place, -1)) {
			waiting[i].number = number;
			atomic_store(&waiting[i].sock, sock + 1);
			return (void *)(i + 1);
		}
	}
	return NULL;
}

/* The connection behind nsd_nfsd, no longer kept; -1: it names none. */
static int take(const void *key, uint32_t *number)
{
	uintptr_t i = (uintptr_t)key - 1;
	if (!key || i >= MAX_WAITING)
		return -1;
	*number = waiting[i].number;
	int sock = atomic_load(&waiting[i].sock);
	if (sock <= 0 || !atomic_compare_exchange_strong(&waiting[i].sock, &sock, 0))
		return -1;
	return sock - 1;
}

/* Body of NFSD: 1 when the daemon can be asked. */
static void pack_begin(struct body *b, const struct nfsd_srvargs *args)
{
	if (args->nsd_authstr && args->nsd_verfstr)
		nfssvc_put_u32(b, 1);
}

/* Body of AUTHIN: struct authin of PROTOCOL.md. */
static void pack_answer(struct body *b, uint32_t number, int ok, const struct nfssvc_xucred *cr)
{
	int n = ok ? cr->cr_ngroups : 1;
	nfssvc_put_u32(b, number);
	nfssvc_put_u32(b, (uint32_t)ok);
	nfssvc_put_u32(b, ok ? cr->cr_uid : UINT32_MAX);
	nfssvc_put_u32(b, ok ? cr->cr_groups[0] : UINT32_MAX);
	nfssvc_put_u32(b, (uint32_t)n - 1);
	for (int i = 1; i < n; i++)
		nfssvc_put_u32(b, cr->cr_groups[i]);
}

/* ---- NEEDAUTH: struct needauth of PROTOCOL.md */

struct cursor { const unsigned char *p, *end; int bad; };

static uint32_t get_u32(struct cursor *c)
{
	uint32_t v = 0;
	if (c->end - c->p < 4)
		c->bad = 1;
	else
		memcpy(&v, c->p, 4);
	c->p += c->bad ? 0 : 4;
	return be(v);
}

static const unsigned char *get_opaque(struct cursor *c, uint32_t most, int *n)
{
	uint32_t len = get_u32(c);
	const unsigned char *at = c->p;
	if (c->bad || len > most || (len + 3) / 4 * 4 > (size_t)(c->end - c->p)) {
		c->bad = 1;
		len = 0;
	}
	c->p += (len + 3) / 4 * 4;
	*n = (int)len;
	return at;
}

static int ask(int sock, struct nfsd_srvargs *args, void *argp, const struct nfssvc_msg *msg)
{
	struct cursor c = { msg->reply, (unsigned char *)msg->reply + msg->reply_len, 0 };
	int n;
	uint32_t number = get_u32(&c), family = get_u32(&c);
	const unsigned char *address = get_opaque(&c, 16, &n);
	args->nsd_haddr = 0;
	if (family == 1 && n == 4)
		memcpy(&args->nsd_haddr, address, 4);
	get_u32(&c);
	get_u32(&c);
	args->nsd_uid = get_u32(&c);
	const unsigned char *auth = get_opaque(&c, RPCAUTH_MAXSIZ, &args->nsd_authlen);
	const unsigned char *verf = get_opaque(&c, RPCAUTH_MAXSIZ, &args->nsd_verflen);
	if (c.bad || c.p != c.end)
		return EPROTO;
	int err = nfssvc_copyout(args->nsd_authstr, auth, (size_t)args->nsd_authlen);
	if (!err)
		err = nfssvc_copyout(args->nsd_verfstr, verf, (size_t)args->nsd_verflen);
	if (!err && !(args->nsd_nfsd = keep(sock, number)))
		err = EBUSY;
	if (!err && (err = nfssvc_copyout(argp, args, sizeof *args)) != 0)
		take(args->nsd_nfsd, &number);
	return err ? err : ENEEDAUTH;
}

/* Sends `flag` and waits until NFSD ends, or the daemon is asked something. */
static int serve(int sock, unsigned flag, const struct body *b, struct nfsd_srvargs *args, void *argp)
{
	struct nfssvc_msg msg = { .body = b->data, .body_len = b->len };
	unsigned came;
	int err = b->err ? b->err : nfssvc_talk(sock, flag, &msg, &came);
	if (!err && came == W_NEEDAUTH)
		err = ask(sock, args, argp, &msg);
	if (!b->err)
		nfssvc_release(&msg);
	if (err != ENEEDAUTH)
		close(sock);
	return err;
}

int nfssvc_bsd44_nfsd(int flags, void *argp)
{
	struct nfsd_srvargs args;
	struct body b = { 0 };
	uint32_t number = 0;
	int ok = (flags & BSD44_AUTHIN) != 0, err = nfssvc_copyin(&args, argp, sizeof args);
	if (err)
		return err;
	if (ok && args.nsd_nfsd && (args.nsd_cr.cr_ngroups < 1 || args.nsd_cr.cr_ngroups > 16))
		return EINVAL;
	int sock = take(args.nsd_nfsd, &number), asked = sock >= 0;
	if (asked)
		pack_answer(&b, number, ok, &args.nsd_cr);
	else
		pack_begin(&b, &args);
	if (!asked)
		err = nfssvc_open(NULL, W_NFSD, &sock);
	if (!err)
		err = serve(sock, asked ? W_AUTHIN : W_NFSD, &b, &args, argp);
	free(b.data);
	return err;
}
