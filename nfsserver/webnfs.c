/* webnfs.c: the public file handle (RFC 2054, RFC 2055): a handle of no bytes stands for the root of the export that has `-public`.
 *
 * A LOOKUP in it may name a whole path: slash-separated, "%xx" for a byte that needs it, or, after a first byte of 0x80, as the
 * server writes its paths, without escapes.  A path that begins with a slash is the server's own and must lie in the export.  Every
 * component is looked up as the caller; a symbolic link in the middle is no directory.  Where the path ends in a directory and the
 * export has -index, that file in it is meant, if there is one. */
#include "parts.h"

#define MAX_PATH 1024u /* RFC 1094 MAXPATHLEN, enough for version 3 */

/* Was the first handle of this call the public one? */
int is_public(const struct call *c) { return !get_u32((const u8 *)(uintptr_t)c->word[2]); }

static int hex(u8 c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The path in the arguments as the server writes it, NUL-terminated.  A byte that was escaped is never a separator.  0, nfsstat3. */
static int get_path(struct call *c, char path[MAX_PATH + 1])
{
	if (garbage(c, c->arg, 4))
		return V_GARBAGE;
	u32 n = get_u32(c->arg);
	const u8 *p = c->arg + 4, *end = p + n;
	if (n > 1 << 20 || garbage(c, p, ((size_t)n + 3) & ~3u))
		return V_GARBAGE;
	if (n > MAX_PATH)
		return ERR_NAMETOOLONG;
	if (n && *p > 0x80)
		return ERR_IO; /* kinds of paths that RFC 2054 section 6 keeps for later */
	int native = n && *p == 0x80;
	for (p += native; p < end; p++) {
		u8 byte = *p;
		if (byte == '%' && !native) {
			if (end - p < 3 || hex(p[1]) < 0 || hex(p[2]) < 0)
				return ERR_NOENT;
			byte = (u8)(hex(p[1]) << 4 | hex(p[2]));
			p += 2;
			if (byte == '/')
				return ERR_ACCES;
		}
		if (!byte)
			return ERR_ACCES;
		*path++ = (char)byte;
	}
	*path = 0;
	return 0;
}

/* What of a server's own path lies below the export; NULL: it is not in it. */
static const char *below(const char *path, const struct export *e)
{
	size_t n = strlen(e->path);
	while (n && e->path[n - 1] == '/')
		n--;
	if (*path != '/')
		return path;
	return !strncmp(path, e->path, n) && (!path[n] || path[n] == '/') ? path + n : NULL;
}

/* One component in *o, which it replaces.  *dir: the directory it was found in. */
static int step(struct call *c, const char *name, i32 *dir, i32 *o, struct stat *st)
{
	*dir = *o;
	if (!is_dir(*o))
		return ERR_NOTDIR;
	if (ident_become(c->ident))
		return ERR_JUKEBOX;
	W.objs[*dir].pins++;
	int status = obj_from_name(c, *dir, name, o, st);
	W.objs[*dir].pins--;
	return status;
}

static int walk(struct call *c, const char *path, i32 *dir, i32 *o, struct stat *st)
{
	char name[256];
	int status = 0;
	while (*path && !status) {
		size_t n = strcspn(path, "/");
		if (n > 255)
			return ERR_NAMETOOLONG;
		memcpy(name, path, n);
		name[n] = 0;
		path += n + (path[n] == '/');
		if (n)
			status = step(c, name, dir, o, st);
	}
	return status;
}

/* LOOKUP in the public handle: object *o, found in directory *dir.  0, nfsstat3, V_*. */
int public_lookup(struct call *c, i32 *o, struct stat *st, i32 *dir, struct stat *dst)
{
	char path[MAX_PATH + 1];
	i32 up;
	const struct export *e = &W.exps[W.objs[c->obj].exp];
	int status = get_path(c, path);
	*dir = *o = c->obj;
	if (status)
		return status;
	const char *inside = below(path, e);
	if (!inside)
		return ERR_ACCES;
	if ((status = obj_stat(*o, st)) || (status = walk(c, inside, dir, o, st)))
		return status;
	if (e->index && is_dir(*o)) {
		i32 file = *o;
		struct stat fst;
		if (!step(c, e->index, &up, &file, &fst) && S_ISREG(fst.st_mode)) {
			*dir = up;
			*o = file;
			*st = fst;
		}
	}
	return obj_stat(*dir, dst);
}
