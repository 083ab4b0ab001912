/* relay.c: one turn of a RELAYED socket: calls that another process received. */
#include "parts.h"
#include <errno.h>
#include <sys/socket.h>

enum {
	RELAYS = 32,              /* packets a turn */
};

void turn_relay(struct engine *e, struct conn *c)
{
	for (u32 i = 0; i < RELAYS && !turn_over(e, c); i++) {
		size_t room = REGION - e->region_pos;
		if (room < REGION_MIN) {
			conn_enqueue(e, c);
			return;
		}
		u8 *p = e->region + e->region_pos;
		ssize_t n = recv(c->fd, p, room, MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		struct rpc_relay_head h;
		if (n <= 0 || (size_t)n > room || (size_t)n < sizeof h) {
			kill_conn(e, c);
			return;
		}
		memcpy(&h, p, sizeof h);
		struct rpc_peer peer = { .family = h.family, .scope = h.scope };
		memcpy(peer.addr, h.addr, 16);
		struct slot *s = &e->slots[e->n_calls];
		s->serial = h.serial;
		s->transport = h.proto;
		s->local_family = 0;
		e->region_pos += ((size_t)n + 7) & ~(size_t)7;
		if (take_message(e, c, &peer, h.port, p + sizeof h, (size_t)n - sizeof h, NULL))
			e->count.badrecord++;
	}
}
