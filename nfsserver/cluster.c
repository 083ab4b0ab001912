/* cluster.c: unfsd's cluster extensions, tags(7): one name, another file for each client.
 *
 * Where an export has them, a name in a directory means the first of these that applies (f: the name that the client uses):
 *
 *   f$$$$                     the client asks for plain f, whatever tags there are
 *   f$$IP=1.2.3.4$$           there is a file of its address,
 *   f$$IP=1.2.3.0_24$$        or of its network (_24, _16, _8)
 *   f$$HOST=name$$            there is one of its name,
 *   f$$HOST=na*$$             or of a beginning of that: the longest
 *   f$$CLIENT$$               there is one for all clients
 *   f$$ALWAYS=IP$$            that tag is there: f$$IP=address$$, which need not be there; f$$ALWAYS=CLIENT$$: f$$CLIENT$$
 *   f$$CREATE=IP$$            the same when f is being made; f$$CREATE=CLIENT$$
 *   $$ALWAYS=IP$$ ...         these four without f act on the whole directory
 *   f                         otherwise
 *
 * Names with a "$$" of their own are left alone, so that the tagged files themselves can be reached.  What a client is called is found
 * out before the first of its calls that has a name in it (gate.c, hosts.py).  Source: unfsd(8), tags(7) of unfs3. */
#include "parts.h"
#include <stdio.h>

#define MAX_HOST 255
#define TAG (MAX_HOST + 16) /* "$$HOST=" name "*$$" */
#define N_HOSTS 1024        /* clients whose names are kept here; hosts.py has more */

struct tags { i32 dir; const char *name, *host; char address[INET6_ADDRSTRLEN]; };

/* What the client with this serial is called ("": nothing), and until when, CLOCK_MONOTONIC seconds. */
static struct host { u32 peer, until_s; char name[MAX_HOST + 1]; } hosts[N_HOSTS];

static struct host *host_of(const struct call *c) { return &hosts[c->eng->peers[c->peer].serial % N_HOSTS]; }

int host_known(const struct call *c)
{
	const struct host *h = host_of(c);
	return c->eng->peers[c->peer].family == AF_UNIX || (h->peer == c->eng->peers[c->peer].serial && h->until_s > W.now_s);
}

/* The client of c is called so, for keep_s seconds. */
void vn_host(const struct call *c, const u8 *name, u32 n, u32 keep_s)
{
	struct host *h = host_of(c);
	*h = (struct host){ .peer = c->eng->peers[c->peer].serial, .until_s = W.now_s + keep_s };
	memcpy(h->name, name, n < MAX_HOST ? n : MAX_HOST);
}

/* Is there an entry `name` + `tag`?  Asked as the caller. */
static int there(const struct tags *t, const char *name, const char *tag)
{
	char full[256 + TAG];
	struct stat st;
	int n = snprintf(full, sizeof full, "%s%s", name, tag);
	return n <= 255 && !fstatat(W.objs[t->dir].fd, full, &st, AT_SYMLINK_NOFOLLOW);
}

/* The tag of the client's IPv4 network: _24, _16, _8. */
static void network_tag(const struct rpc_peer *peer, int bits, char tag[TAG])
{
	u8 a[4] = { 0 };
	memcpy(a, peer->addr, (size_t)bits / 8);
	snprintf(tag, TAG, "$$IP=%u.%u.%u.%u_%d$$", a[0], a[1], a[2], a[3], bits);
}

static int has_network(const struct tags *t, const struct rpc_peer *peer, char tag[TAG])
{
	for (int bits = 24; peer->family == AF_INET && bits; bits -= 8) {
		network_tag(peer, bits, tag);
		if (there(t, t->name, tag))
			return 1;
	}
	return 0;
}

static int has_host(const struct tags *t, char tag[TAG])
{
	int n = (int)strlen(t->host);
	snprintf(tag, TAG, "$$HOST=%s$$", t->host);
	if (n && there(t, t->name, tag))
		return 1;
	for (; n > 0; n--) {
		snprintf(tag, TAG, "$$HOST=%.*s*$$", n, t->host);
		if (there(t, t->name, tag))
			return 1;
	}
	return 0;
}

/* Does a tag that redirects stand beside `name` ("": in the directory)?  The tag of the target goes to `tag`. */
static int redirects(const struct tags *t, const char *name, const char *ip, int creating, char tag[TAG])
{
	static const char *const kinds[4] = { "$$ALWAYS=IP$$", "$$ALWAYS=CLIENT$$", "$$CREATE=IP$$", "$$CREATE=CLIENT$$" };
	for (int i = 0; i < (creating ? 4 : 2); i++)
		if (there(t, name, kinds[i])) {
			snprintf(tag, TAG, "%s", i & 1 ? "$$CLIENT$$" : ip);
			return 1;
		}
	return 0;
}

/* The tag that the name gets for this client; 0: none. */
static int tag_for(const struct call *c, struct tags *t, int creating, char tag[TAG])
{
	const struct rpc_peer *peer = &c->eng->peers[c->peer];
	char ip[80] = "$$IP=local$$";
	if (peer->family != AF_UNIX && inet_ntop((int)peer->family, peer->addr, t->address, sizeof t->address))
		snprintf(ip, sizeof ip, "$$IP=%s$$", t->address);
	snprintf(tag, TAG, "%s", ip);
	if (there(t, t->name, tag) || has_network(t, peer, tag) || has_host(t, tag))
		return 1;
	snprintf(tag, TAG, "$$CLIENT$$");
	return there(t, t->name, tag) || redirects(t, t->name, ip, creating, tag) || redirects(t, "", ip, creating, tag);
}

/* Replaces `name`, which a client uses in `dir`, by what it means.  0 or an nfsstat3. */
int cluster_name(const struct call *c, i32 dir, char name[256], int creating)
{
	struct tags t = { .dir = dir, .name = name, .host = "" };
	char tag[TAG];
	size_t n = strlen(name);
	if (!(W.exps[W.objs[dir].exp].flags & EX_CLUSTER) || is_dots(name) || !is_dir(dir))
		return 0;
	if (n > 4 && !strcmp(name + n - 4, "$$$$")) {
		name[n - 4] = 0;
		return is_dots(name) ? ERR_ACCES : 0;
	}
	if (c->eng->peers[c->peer].family != AF_UNIX)
		t.host = host_of(c)->peer == c->eng->peers[c->peer].serial ? host_of(c)->name : "";
	if (strstr(name, "$$") || !tag_for(c, &t, creating, tag))
		return 0;
	if (n + strlen(tag) > 255)
		return ERR_NAMETOOLONG;
	strcpy(name + n, tag);
	return 0;
}
