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

int rpc_attach(struct rpc_engine *pub, int fd, int kind, const void *sa, u32 sa_len)
{
	struct engine *e = ENGINE(pub);
	struct sockaddr_storage ss;
	int family = 0, on = 1;
	socklen_t len = sizeof family;

	if (kind < RPC_LISTEN || kind > RPC_EVENT)
		return -EINVAL;
	if (kind != RPC_EVENT && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len))
		return -errno;
	if (e->free_head == NONE && grow_conns(e))
		return -ENOMEM;
	struct conn *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->fd = fd;
	c->kind = (u8)kind;
	c->next = c->older = c->newer = NONE;
	c->peer = c->cred = NONE;
	c->t_active = e->now;
	if (kind == RPC_CONN) {
		c->proto = family == AF_UNIX ? RPC_LOCAL : RPC_TCP;
		if (!sa || !sa_len) {
			sa_len = sizeof ss;
			memset(&ss, 0, sizeof ss);
			if (getpeername(fd, (struct sockaddr *)&ss, &sa_len)) {
				int err = errno;
				free(c);
				return -err;
			}
			sa = &ss;
			if (family == AF_UNIX)
				sa_len = sizeof ss.ss_family;
		}
		set_peer(&c->addr, &c->port, sa, sa_len);
		c->bucket = keyed_hash(e->key, (u8 *)&c->addr + 4, sizeof c->addr - 4) % ADDRESSES;
		while (e->count.conns >= e->lim.max_conns && evict(e, c->bucket))
			;
		if (c->proto == RPC_TCP) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
			setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
		} else {
			struct ucred cr;
			len = sizeof cr;
			if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cr, &len)) {
				c->uid = cr.uid;
				c->peercred = 1;
			}
		}
	} else if (kind == RPC_DGRAM) {
		c->proto = RPC_UDP;
		int room = UDP_BUFFER;
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
		if (family == AF_INET)
			setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
		else
			setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
		if (!e->udp_in && !(e->udp_in = malloc((size_t)UDP_SLOTS * DATAGRAM))) {
			free(c);
			return -ENOMEM;
		}
	} else if (kind == RPC_RELAYED) {
		c->proto = RPC_RELAY;
	} else if (kind == RPC_LISTEN) {
		int flags = fcntl(fd, F_GETFL);
		if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
			int err = errno;
			free(c);
			return -err;
		}
	}
	u32 id = e->free_head;
	c->id = id;
	c->gen = e->gens[id];
	c->armed = conn_blocked(e, c) ? 0 : EPOLLIN;
	struct epoll_event ev = { .events = c->armed, .data.u64 = (u64)c->gen << 32 | id };
	if (epoll_ctl(e->ep, EPOLL_CTL_ADD, fd, &ev)) {
		int err = errno;
		free(c);
		return -err;
	}
	e->free_head = e->free_next[id];
	e->conns[id] = c;
	age_link(e, c);
	if (kind == RPC_CONN) {
		e->count.conns++;
		e->count.accepted++;
		e->by_address[c->bucket]++;
	}
	return (int)id;
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
