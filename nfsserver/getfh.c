/* getfh.c: GETFH and FHOPEN of nfssvc(2), which have no call: identity and object by hand. */
#include "parts.h"

/* Walks `path` (relative, no "..") from the export's root as `ident`.  The handle goes to out[64]; its length, or -errno. */
int vn_getfh(u32 expid, const char *path, u32 ident, int vers, u8 *out)
{
	struct call c = { .ident = ident };
	struct stat st;
	i32 exp = exp_find(expid), o;
	if (exp < 0)
		return -ESTALE;
	if (vn_root(exp, &o))
		return -ESTALE;
	while (*path) {
		char name[256];
		size_t n = strcspn(path, "/");
		if (n > 255)
			return -ENAMETOOLONG;
		memcpy(name, path, n);
		name[n] = 0;
		path += n + (path[n] == '/');
		if (!n || (n == 1 && name[0] == '.'))
			continue;
		if (W.objs[o].type != S_IFDIR >> 12)
			return -ENOTDIR;
		if (ident_become(ident))
			return -EPERM;
		int status = obj_from_name(&c, o, name, &o, &st);
		if (status)
			return status == ERR_NOENT ? -ENOENT : status == ERR_NOTDIR ? -ENOTDIR : status == ERR_NAMETOOLONG ? -ENAMETOOLONG : -EACCES;
	}
	int type = W.objs[o].type;
	if (type != S_IFDIR >> 12 && !(type == S_IFREG >> 12 && W.exps[exp].flags & EX_REGULAR))
		return type == S_IFLNK >> 12 ? -EACCES : -ENOTDIR; /* what is mounted is a directory */
	if (vers == 2)
		return fh2_of(o, out) ? -EOPNOTSUPP : 32;
	memcpy(out, W.objs[o].fh, W.objs[o].fhlen);
	return W.objs[o].fhlen;
}

/* Opens a handle's regular file as `ident`; mode 1 read, 2 write, 3 both.  A new descriptor, or -errno.  *expid tells whose it is;
 * with ident -1 nothing is opened: 0 says that the handle is good. */
int vn_fhopen(const u8 *fh, u32 len, int ident, int mode, u32 *expid)
{
	u8 buf[4 + FH_MAX + 3];
	struct call c = { .arg = buf, .end = buf + 4 + ((len + 3) & ~3u), .ident = ident < 0 ? 0 : (u32)ident };
	const u8 *p = buf;
	u32 n = htonl(len);
	char name[32];
	i32 o;
	if (len > FH_MAX)
		return -EINVAL;
	memset(buf, 0, sizeof buf);
	memcpy(buf, &n, 4);
	memcpy(buf + 4, fh, len);
	int status = gate_fh(&c, &p, &o);
	if (status)
		return status == ERR_STALE ? -ESTALE : -EINVAL;
	*expid = W.objs[o].expid;
	if (ident < 0)
		return 0;
	if (W.objs[o].type != S_IFREG >> 12)
		return -EINVAL;
	if (ident_become((u32)ident))
		return -EPERM;
	int flags = (mode == 1 ? O_RDONLY : mode == 2 ? O_WRONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd = openat(W.procfd, procpath(W.objs[o].fd, name), flags);
	return fd < 0 ? -errno : fd;
}
