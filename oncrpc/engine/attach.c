/* attach.c: takes sockets over and lets them go, as the owner of the engine says. */
#include "parts.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	UDP_BUFFER = 1 << 20,     /* bytes that the kernel may hold: bursts of 32 KiB writes */
};

/* Whose connection it is.  0 or -errno. */
static int name_peer(struct conn *c, const void *sa, u32 sa_len)
{
	struct sockaddr_storage ss;
	if (!sa || !sa_len) {
		socklen_t len = sizeof ss;
		memset(&ss, 0, sizeof ss);
		if (getpeername(c->fd, (struct sockaddr *)&ss, &len))
			return -errno;
		sa = &ss;
		sa_len = c->proto == RPC_LOCAL ? sizeof ss.ss_family : len;
	}
	set_peer(&c->addr, &c->port, sa, sa_len);
	return 0;
}

static int begin_conn(struct engine *e, struct conn *c, const void *sa, u32 sa_len)
{
	int on = 1, err = name_peer(c, sa, sa_len);
	struct ucred cr;
	socklen_t len = sizeof cr;
	if (err)
		return err;
	c->bucket = keyed_hash(e->key, (u8 *)&c->addr + 4, sizeof c->addr - 4) % ADDRESSES;
	while (e->count.conns >= e->lim.max_conns && evict(e, c->bucket))
		;
	if (c->proto == RPC_TCP) {
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	} else if (!getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cr, &len)) {
		c->uid = cr.uid;
		c->peercred = 1;
	}
	return 0;
}

static int begin_dgram(struct engine *e, struct conn *c, int family)
{
	int room = UDP_BUFFER, on = 1;
	setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
	if (family == AF_INET)
		setsockopt(c->fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
	else
		setsockopt(c->fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
	if (!e->udp_in)
		e->udp_in = malloc((size_t)UDP_SLOTS * DATAGRAM);
	return e->udp_in ? 0 : -ENOMEM;
}

static int begin_listen(const struct conn *c)
{
	int flags = fcntl(c->fd, F_GETFL);
	return flags < 0 || fcntl(c->fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

/* What its kind asks for, before anything is received.  0 or -errno. */
static int begin_kind(struct engine *e, struct conn *c, int family, const void *sa, u32 sa_len)
{
	switch (c->kind) {
	case RPC_CONN:
		c->proto = family == AF_UNIX ? RPC_LOCAL : RPC_TCP;
		return begin_conn(e, c, sa, sa_len);
	case RPC_DGRAM:
		c->proto = RPC_UDP;
		return begin_dgram(e, c, family);
	case RPC_LISTEN:
		return begin_listen(c);
	case RPC_RELAYED:
		c->proto = RPC_RELAY;
		return 0;
	default:
		return 0;
	}
}

/* Gives it a place in the table, and has epoll watch it.  0 or -errno. */
static int enter_table(struct engine *e, struct conn *c)
{
	c->id = e->free_head;
	c->gen = e->gens[c->id];
	c->armed = conn_blocked(e, c) ? 0 : EPOLLIN;
	struct epoll_event ev = { .events = c->armed, .data.u64 = (u64)c->gen << 32 | c->id };
	if (epoll_ctl(e->ep, EPOLL_CTL_ADD, c->fd, &ev))
		return -errno;
	e->free_head = e->free_next[c->id];
	e->conns[c->id] = c;
	age_link(e, c);
	if (c->kind == RPC_CONN) {
		e->count.conns++;
		e->count.accepted++;
		e->by_address[c->bucket]++;
	}
	return 0;
}

int rpc_attach(struct rpc_engine *pub, int fd, int kind, const void *sa, u32 sa_len)
{
	struct engine *e = ENGINE(pub);
	int family = 0;
	socklen_t len = sizeof family;

	if (kind < RPC_LISTEN || kind > RPC_EVENT)
		return -EINVAL;
	if (kind != RPC_EVENT && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	if (e->free_head == NONE && grow_conns(e))
		return -ENOMEM;
	struct conn *c = malloc(sizeof *c);
	if (!c)
		return -ENOMEM;
	*c = (struct conn){ .fd = fd, .kind = (u8)kind, .next = NONE, .older = NONE, .newer = NONE, .peer = NONE, .cred = NONE,
			    .t_active = e->now };
	int err = begin_kind(e, c, family, sa, sa_len);
	if (!err)
		err = enter_table(e, c);
	if (err) {
		free(c);
		return err;
	}
	return (int)c->id;
}

int rpc_close(struct rpc_engine *pub, u32 id)
{
	struct engine *e = ENGINE(pub);
	if (id >= e->conn_cap || !e->conns[id])
		return -ENOENT;
	if (e->pub.out_conn == id && e->pub.out_gen == e->gens[id])
		flush_tcp(e);
	if (e->conns[id])
		kill_conn(e, e->conns[id]);
	return 0;
}

int rpc_hangup(struct call *c)
{
	struct engine *e = ENGINE(c->eng);
	struct conn *conn = conn_find(e, c->conn, c->conn_gen);
	if (!conn || conn->kind != RPC_CONN)
		return -ENOENT;
	kill_conn(e, conn);
	return 0;
}

void rpc_stop_reading(struct rpc_engine *pub, int on)
{
	struct engine *e = ENGINE(pub);
	e->stopped = on;
	for (u32 i = e->oldest; i != NONE; i = e->conns[i]->newer) {
		conn_arm(e, e->conns[i]);
		if (!on && e->conns[i]->left)
			conn_enqueue(e, e->conns[i]);
	}
}
