/* users.c: active users: who (uid as sent, client address) asked what of which export, in a table that all workers share.
 *
 * A row is found once for each grant and then counted into without a lock.  Rows are looked for in a short run of places after
 * a hash; when those are taken, the one that was quiet longest goes, and is counted as lost.  nfssvc(2), NFSSVC_USERSTATS. */
#include "parts.h"

#define RUN 16 /* places looked at for one user */

static u64 *row_at(u32 i) { return W.state + OFF_USERS / 8 + (u64)i * USER_WORDS; }

static u64 half(const u8 *p) { return get_u64(p); }

/* Row + 1 of the caller of c on an export, and its serial. */
u32 user_row(const struct call *c, u32 expid, u64 *serial)
{
	const struct rpc_peer *peer = &c->eng->peers[c->peer];
	u64 family = peer->family == AF_INET ? 1 : peer->family == AF_INET6 ? 2 : 3;
	u64 key[5] = { expid, c->eng->creds[c->cred].uid, family, half(peer->addr), half(peer->addr + 8) };
	u32 start = (u32)(siphash(W.key, key, sizeof key) % N_USERS), best = start;
	vn_tell(); /* into the row that it was for, should that be the one to go */
	shared_lock *lock = users_lock();
	for (u32 i = 0; i < RUN; i++) {
		u64 *r = row_at((start + i) % N_USERS);
		if (r[U_STATE] && !memcmp(&r[U_EXPID], key, sizeof key)) {
			best = (start + i) % N_USERS;
			goto found;
		}
	}
	for (u32 i = 0; i < RUN; i++) {
		u32 at = (start + i) % N_USERS;
		if (!row_at(at)[U_STATE]) {
			best = at;
			break;
		}
		if (row_at(at)[U_LAST] < row_at(best)[U_LAST])
			best = at;
	}
	u64 *r = row_at(best);
	atomic_fetch_add((_Atomic u64 *)&W.state[H_USERS_LOST], r[U_STATE] != 0); /* ZEROSTATS does not wait for the lock */
	memset(&r[U_EXPID], 0, (USER_WORDS - 1) * sizeof *r);
	memcpy(&r[U_EXPID], key, sizeof key);
	r[U_FIRST] = r[U_LAST] = W.wall_s;
	atomic_store((_Atomic u64 *)&r[U_STATE], ++W.state[H_USERS_SERIAL]);
found:
	*serial = row_at(best)[U_STATE];
	shared_unlock(lock);
	return best + 1;
}
