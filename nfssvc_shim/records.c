/* records.c: the C records of nfssvc(2) to the bodies of PROTOCOL.md (nfssvc_shim/records.py has the same in Python).
 *
 * Everything that a caller's pointer leads to is copied in first; what the records say is checked again by the server.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "wire.h"

enum { WIRE_NONE = 0, WIRE_INET = 1, WIRE_INET6 = 2, WIRE_LOCAL = 3 }; /* families on the wire are not the host's numbers */
#define MAX_NETS 65536
#define MAX_PATH 4096
#define NOBODY 65534

static void put_address(struct body *b, uint32_t family, const void *packed, size_t n, uint32_t port, uint32_t scope)
{
	nfssvc_put_u32(b, family);
	nfssvc_put_opaque(b, packed, n);
	nfssvc_put_u32(b, port);
	nfssvc_put_u32(b, scope);
}

/* EINVAL: a family that NFS is not served over, or a record too short for it.  v4-mapped addresses are unwrapped. */
static int put_sockaddr(struct body *b, const struct sockaddr_storage *ss, size_t len)
{
	if (ss->ss_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
		const struct sockaddr_in *sin = (const struct sockaddr_in *)ss;
		put_address(b, WIRE_INET, &sin->sin_addr, 4, ntohs(sin->sin_port), 0);
	} else if (ss->ss_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
		const struct sockaddr_in6 *sin6 = (const struct sockaddr_in6 *)ss;
		if (IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr))
			put_address(b, WIRE_INET, sin6->sin6_addr.s6_addr + 12, 4, ntohs(sin6->sin6_port), 0);
		else
			put_address(b, WIRE_INET6, &sin6->sin6_addr, 16, ntohs(sin6->sin6_port), sin6->sin6_scope_id);
	} else if (ss->ss_family == AF_UNIX) {
		put_address(b, WIRE_LOCAL, NULL, 0, 0, 0);
	} else {
		return EINVAL;
	}
	return 0;
}

static int socket_type(int sock, int *type)
{
	socklen_t len = sizeof *type;
	return getsockopt(sock, SOL_SOCKET, SO_TYPE, type, &len) ? errno : 0; /* EBADF, ENOTSOCK */
}

/* A stream socket without a name is EACCES, as in macOS: its client could be matched with no export. */
int nfssvc_pack_addsock(struct body *b, const struct nfsd_args *args, int *sock)
{
	struct sockaddr_storage ss;
	int type, err = socket_type(args->sock, &type);
	if (err)
		return err;
	if (type != SOCK_STREAM && type != SOCK_DGRAM)
		return EINVAL;
	*sock = args->sock;
	if (type == SOCK_DGRAM) {
		put_address(b, WIRE_NONE, NULL, 0, 0, 0);
	} else {
		if (!args->name)
			return EACCES;
		if (args->namelen < (int)sizeof ss.ss_family || (size_t)args->namelen > sizeof ss)
			return EINVAL;
		memset(&ss, 0, sizeof ss);
		if ((err = nfssvc_copyin(&ss, args->name, (size_t)args->namelen)) != 0
		    || (err = put_sockaddr(b, &ss, (size_t)args->namelen)) != 0)
			return err;
	}
	nfssvc_put_u32(b, 0xffffffffu); /* slot -1: the server chooses */
	return b->err;
}

/* Leading ones of a mask; EINVAL when ones follow a zero (no prefix) or the families differ. */
static int prefix_of(const struct sockaddr_storage *addr, const struct sockaddr_storage *mask, uint32_t *prefix)
{
	size_t n = addr->ss_family == AF_INET ? 4 : 16;
	const unsigned char *p = addr->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)mask)->sin_addr
	                                                     : (const void *)&((const struct sockaddr_in6 *)mask)->sin6_addr;
	*prefix = (uint32_t)n * 8;
	if (mask->ss_family == AF_UNSPEC)
		return 0;
	if (mask->ss_family != addr->ss_family)
		return EINVAL;
	uint32_t ones = 0;
	while (ones < n * 8 && p[ones / 8] & 0x80 >> ones % 8)
		ones++;
	for (uint32_t bit = ones; bit < n * 8; bit++)
		if (p[bit / 8] & 0x80 >> bit % 8)
			return EINVAL;
	*prefix = ones;
	return 0;
}

static void put_cred(struct body *b, uint32_t uid, uint32_t gid, const uint32_t *gids, int n)
{
	nfssvc_put_u32(b, uid);
	nfssvc_put_u32(b, gid);
	nfssvc_put_u32(b, (uint32_t)n);
	for (int i = 0; i < n; i++)
		nfssvc_put_u32(b, gids[i]);
}

static void put_mapping(struct body *b, const struct nfs_export_net_args *net, uint32_t flag)
{
	const struct nfssvc_xucred *cr = &net->nxna_cred;
	if (net->nxna_flags & flag)
		put_cred(b, cr->cr_uid, cr->cr_groups[0], cr->cr_groups + 1, cr->cr_ngroups - 1);
	else
		put_cred(b, NOBODY, NOBODY, NULL, 0);
}

static int put_where(struct body *b, const struct nfs_export_net_args *net)
{
	uint32_t prefix = 0;
	if (net->nxna_addr.ss_family == AF_UNSPEC) {
		put_address(b, WIRE_NONE, NULL, 0, 0, 0);
	} else {
		int err = put_sockaddr(b, &net->nxna_addr, sizeof net->nxna_addr);
		if (err || (err = prefix_of(&net->nxna_addr, &net->nxna_mask, &prefix)) != 0)
			return err;
	}
	nfssvc_put_u32(b, prefix);
	return 0;
}

static int put_net(struct body *b, const struct nfs_export_net_args *net)
{
	int world = net->nxna_addr.ss_family == AF_UNSPEC;
	int mapped = net->nxna_flags & (NX_MAPROOT | NX_MAPALL);
	if (mapped && (net->nxna_cred.cr_ngroups < 1 || net->nxna_cred.cr_ngroups > 16))
		return EINVAL;
	if (net->nxna_sec.count < 0 || net->nxna_sec.count > 5 || net->nxna_flags > 0xff)
		return EINVAL;
	nfssvc_put_u32(b, world ? net->nxna_flags | NX_DEFAULTEXPORT : net->nxna_flags & ~(uint32_t)NX_DEFAULTEXPORT);
	int err = put_where(b, net);
	if (err)
		return err;
	put_mapping(b, net, NX_MAPROOT);
	put_mapping(b, net, NX_MAPALL);
	put_cred(b, NOBODY, NOBODY, NULL, 0); /* anon: AUTH_NONE */
	nfssvc_put_u32(b, net->nxna_sec.count ? (uint32_t)net->nxna_sec.count : 1);
	for (int i = 0; i < net->nxna_sec.count; i++)
		nfssvc_put_u32(b, net->nxna_sec.flavors[i]);
	if (!net->nxna_sec.count)
		nfssvc_put_u32(b, 1); /* AUTH_SYS */
	nfssvc_put_u32(b, 0); /* no line of a file */
	return b->err;
}

static int put_nets(struct body *b, const struct nfs_export_args *nxa)
{
	struct nfs_export_net_args net;
	if (nxa->nxa_netcount > MAX_NETS)
		return EINVAL;
	nfssvc_put_u32(b, nxa->nxa_netcount);
	for (uint32_t i = 0; i < nxa->nxa_netcount; i++) {
		int err = nfssvc_copyin(&net, nxa->nxa_nets + i, sizeof net);
		if (err || (err = put_net(b, &net)) != 0)
			return err;
	}
	return b->err;
}

static void put_fsid(struct body *b, uint32_t fsid)
{
	uint32_t wide[2] = { 0, htonl(fsid) };
	nfssvc_put_opaque(b, wide, fsid ? sizeof wide : 0);
}

static int put_paths(struct body *b, const struct nfs_export_args *nxa)
{
	char path[MAX_PATH];
	int err = nfssvc_copyinstr(path, nxa->nxa_fspath, sizeof path);
	if (err)
		return err;
	nfssvc_put_opaque(b, path, strlen(path));
	path[0] = 0;
	if (nxa->nxa_exppath && (err = nfssvc_copyinstr(path, nxa->nxa_exppath, sizeof path)) != 0)
		return err;
	nfssvc_put_opaque(b, path, strcmp(path, ".") ? strlen(path) : 0);
	return 0;
}

static int put_export(struct body *b, const struct nfs_export_args *nxa)
{
	nfssvc_put_u32(b, nxa->nxa_expid);
	put_fsid(b, nxa->nxa_fsid);
	int err = put_paths(b, nxa);
	if (err)
		return err;
	nfssvc_put_u32(b, 0);              /* Ex flags: nfs_export_args has no bit for them */
	nfssvc_put_opaque(b, NULL, 0);     /* password */
	nfssvc_put_opaque(b, NULL, 0);     /* index */
	return put_nets(b, nxa);
}

/* CHECK must be alone; OFFLINE comes with ADD or REPLACE or by itself; DELETE_ALL needs no export. */
static int bad_operation(uint32_t op)
{
	return !op || op & ~0x1fu || (op & NXA_CHECK && op != NXA_CHECK) || (op & NXA_DELETE_ALL && op != NXA_DELETE_ALL)
	    || (op & NXA_OFFLINE && (op & NXA_REPLACE) == NXA_DELETE);
}

int nfssvc_pack_export(struct body *b, const void *argp)
{
	struct nfs_export_args nxa;
	int err = nfssvc_copyin(&nxa, argp, sizeof nxa);
	if (err)
		return err;
	if (bad_operation(nxa.nxa_flags))
		return EINVAL;
	nfssvc_put_u32(b, nxa.nxa_flags);
	nfssvc_put_u32(b, 0); /* whole: no, one entry */
	nfssvc_put_u32(b, 0); /* generation, a hyper: the server's to set */
	nfssvc_put_u32(b, 0);
	nfssvc_put_u32(b, nxa.nxa_flags != NXA_DELETE_ALL);
	if (nxa.nxa_flags != NXA_DELETE_ALL)
		err = put_export(b, &nxa);
	return err ? err : b->err;
}
