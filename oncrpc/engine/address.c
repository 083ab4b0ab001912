/* address.c: from whom a call came, on which way, and which of our addresses was asked. */
#include "parts.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

void set_peer(struct rpc_peer *p, u16 *port, const void *sa, size_t len)
{
	memset(p, 0, sizeof *p);
	*port = 0;
	u16 family = AF_UNIX;
	if (len >= sizeof family)
		memcpy(&family, sa, sizeof family);
	p->family = family;
	if (family == AF_INET && len >= sizeof(struct sockaddr_in)) {
		struct sockaddr_in in;
		memcpy(&in, sa, sizeof in);
		memcpy(p->addr, &in.sin_addr, 4);
		*port = ntohs(in.sin_port);
	} else if (family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
		struct sockaddr_in6 in;
		memcpy(&in, sa, sizeof in);
		*port = ntohs(in.sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
			p->family = AF_INET;
			memcpy(p->addr, in.sin6_addr.s6_addr + 12, 4);
		} else {
			memcpy(p->addr, &in.sin6_addr, 16);
			p->scope = in.sin6_scope_id;
		}
	} else {
		p->family = AF_UNIX;
	}
}

int rpc_message(struct call *c, const u8 **msg, size_t *len)
{
	struct slot *s = c->owner;
	if (!s->msg)
		return -EINVAL;
	*msg = s->msg;
	*len = s->msg_len;
	return 0;
}

u32 rpc_message_size(struct call *c) { return ((struct slot *)c->owner)->msg_len; }

u32 rpc_transport(struct call *c)
{
	return c->proto == RPC_RELAY ? ((struct slot *)c->owner)->transport : c->proto;
}

void rpc_relay(struct call *c, u32 serial, struct rpc_relay_head *head)
{
	const struct rpc_peer *p = &c->eng->peers[c->peer];
	*head = (struct rpc_relay_head){ .serial = serial, .proto = rpc_transport(c), .family = (u16)p->family,
					 .port = c->port, .scope = p->scope };
	memcpy(head->addr, p->addr, 16);
}

int rpc_local_addr(struct call *c, u8 addr[16])
{
	struct engine *e = ENGINE(c->eng);
	struct slot *s = c->owner;
	struct rpc_peer p;
	u16 port;
	memset(addr, 0, 16);
	if (c->proto == RPC_UDP && s->local_family) {
		if (s->local_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((struct in6_addr *)s->local)) {
			memcpy(addr, s->local + 12, 4);
			return AF_INET;
		}
		memcpy(addr, s->local, 16);
		return (int)s->local_family;
	}
	struct conn *conn = conn_find(e, c->conn, c->conn_gen);
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	if (c->proto == RPC_RELAY || !conn || getsockname(conn->fd, (struct sockaddr *)&ss, &len))
		return 0;
	set_peer(&p, &port, &ss, len);
	memcpy(addr, p.addr, 16);
	return p.family == AF_UNIX ? 0 : (int)p.family;
}

int rpc_is_local(struct call *c)
{
	struct in6_addr a;
	if (c->proto == RPC_LOCAL)
		return 1;
	int family = rpc_local_addr(c, a.s6_addr);
	return (family == AF_INET && a.s6_addr[0] == 127) || (family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a));
}

int64_t rpc_unix_uid(struct call *c)
{
	struct conn *conn = conn_find(ENGINE(c->eng), c->conn, c->conn_gen);
	return conn && conn->peercred ? (int64_t)conn->uid : -1;
}
