/* listen.c: one turn of a listening socket. */
#include "parts.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	ACCEPTS = 64,             /* a turn of a listening socket */
};

void turn_listen(struct engine *e, struct conn *c)
{
	for (int i = 0; i < ACCEPTS; i++) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof ss;
		int fd = accept4(c->fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			if (rpc_attach(&e->pub, fd, RPC_CONN, &ss, len ? len : (socklen_t)sizeof ss.ss_family) < 0)
				close(fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		e->count.accept_errors++;
		if ((errno == EMFILE || errno == ENFILE) && evict(e, NONE))
			continue;
		/* No descriptor, no memory: disarmed until a connection closes, or for a second. */
		struct epoll_event ev = { .events = 0, .data.u64 = (u64)c->gen << 32 | c->id };
		if (!epoll_ctl(e->ep, EPOLL_CTL_MOD, c->fd, &ev)) {
			c->armed = 0;
			e->starved = true;
		}
		return;
	}
}
