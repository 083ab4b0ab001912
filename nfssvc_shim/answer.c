/* answer.c: the call socket's first hand, in the control half (nfsd_master/callsock.py); not part of libnfssvc.
 *
 * Duty: answer, without a turn of Python, what every local user may ask and what needs only the shared counters: SRVSTATS without
 * the workers' rows, and USERCOUNT.  Programs that watch a server ask that often; those of libnfssvc keep a connection for it (kept.c).
 *
 * Theory of operation.  A connection is kept here until it asks for something else; then it goes to the caller for good, with that
 * message unread, and so does the one that was silent for longest when there are more than FRESH: silent peers take no place from
 * others here, and the caller's limits are those that count.  A message is looked at before it is taken, so nothing has to be given
 * back.  All is non-blocking; a peer that does not read its answer loses its connection.
 *
 * The caller's loop waits here, for its own descriptors too (`rest`, its epoll(7) descriptor), so that what is answered here never
 * wakes it.
 */
#define _GNU_SOURCE
#include "answer.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"
#include "wire.h"

#define FRESH 32   /* connections kept here, of any user: as many callers as are likely to ask at one moment */
#define ACCEPTS 64 /* a turn: the rest of the server waits no longer than these take, about 1 ms */
#define EVENTS 64

_Static_assert(ANSWER_ROOM >= ACCEPTS + EVENTS + FRESH, "each may go to the caller in one turn");

static const uint64_t *counters;
static int poller = -1, door = -1, rest = -1;
static int fresh[FRESH]; /* the one that was silent for longest first */
static int n_fresh;
static int *out, n_out;

/* ---- connections */

static void let_go(int fd)
{
	for (int i = 0; i < n_fresh; i++) {
		if (fresh[i] == fd) {
			memmove(fresh + i, fresh + i + 1, (size_t)(--n_fresh - i) * sizeof *fresh);
			return;
		}
	}
}

/* It was served: of those that are kept here the ones that ask go last. */
static void renew(int fd)
{
	let_go(fd);
	fresh[n_fresh++] = fd;
}

static void hang_up(int fd)
{
	let_go(fd);
	close(fd);
}

static void hand_over(int fd)
{
	let_go(fd);
	epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
	out[n_out++] = fd;
}

/* ---- messages */

struct request { struct header head; uint32_t what; char more; };

static int asks_for_sums(const struct request *r, size_t len)
{
	return be(r->head.flag) == W_SRVSTATS && be(r->head.length) == sizeof r->what && be(r->what) == SUMS_ALONE
	    && len == sizeof r->head + sizeof r->what;
}

static int asks_for_count(const struct request *r, size_t len)
{
	return be(r->head.flag) == W_USERCOUNT && !r->head.length && len == sizeof r->head;
}

static int is_message(const struct request *r, size_t len)
{
	return len >= sizeof r->head && be(r->head.magic) == MAGIC && be(r->head.version) == VERSION;
}

static size_t body_for(const struct request *r, uint64_t body[N_COUNTERS])
{
	if (be(r->head.flag) == W_SRVSTATS) {
		stats_sums(counters, body);
		return N_COUNTERS * sizeof *body;
	}
	uint32_t users = stats_usercount(counters, (uint64_t)time(NULL) - USER_IDLE_S);
	memcpy(body, &users, sizeof users);
	return sizeof users;
}

static int answer(int fd, const struct request *r)
{
	uint64_t body[N_COUNTERS];
	size_t len = body_for(r, body);
	struct header head = { r->head.magic, r->head.version, r->head.flag, r->head.serial, 0, be((uint32_t)len) };
	struct iovec iov[2] = { { &head, sizeof head }, { body, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	return sendmsg(fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)(sizeof head + len);
}

/* One message of fd, if it has come.  Descriptors that ride with it are dropped by the kernel: nobody receives them. */
static void serve(int fd)
{
	struct request r;
	ssize_t n = recv(fd, &r, sizeof r, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return; /* it is asked again when something comes */
	if (n <= 0)
		hang_up(fd);
	else if (!is_message(&r, (size_t)n) || !(asks_for_sums(&r, (size_t)n) || asks_for_count(&r, (size_t)n)))
		hand_over(fd);
	else if (recv(fd, &r, sizeof r, MSG_DONTWAIT) != n || !answer(fd, &r))
		hang_up(fd);
	else
		renew(fd);
}

/* ---- newcomers */

static void keep(int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
	if (n_fresh == FRESH)
		serve(fresh[0]); /* often it has hung up */
	if (n_fresh == FRESH)
		hand_over(fresh[0]);
	fresh[n_fresh++] = fd;
	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e)) /* no memory: the caller may have more luck */
		hand_over(fd);
	else
		serve(fd);
}

/* 0, or the errno that says that there are too many descriptors or too little memory. */
static int take_newcomers(void)
{
	for (int i = 0; i < ACCEPTS; i++) {
		int fd = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			keep(fd);
		else if (errno != ECONNABORTED && errno != EINTR)
			return errno == EAGAIN ? 0 : errno;
	}
	return 0;
}

/* ---- what the caller does */

static int watch(int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
	return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

int answer_listen(int on)
{
	return on ? watch(door) : epoll_ctl(poller, EPOLL_CTL_DEL, door, NULL) ? -errno : 0;
}

int answer_open(const uint64_t *state, int listener, int others)
{
	counters = state;
	door = listener;
	rest = others;
	n_fresh = 0;
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0)
		return -errno;
	int err = watch(others);
	if (!err)
		err = answer_listen(1);
	if (err)
		close(poller);
	return err;
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Serves what is ready.  1: the caller has something to do. */
static int one_turn(const struct epoll_event *events, int n, int *accept_error)
{
	int newcomers = 0, others = 0;
	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == door)
			newcomers = 1;
		else if (events[i].data.fd == rest)
			others = 1;
		else
			serve(events[i].data.fd);
	}
	if (newcomers) /* last: a descriptor that was closed above may come back as a new one */
		*accept_error = take_newcomers();
	return others || n_out || *accept_error;
}

int answer_wait(int timeout_ms, int *handed, int *accept_error)
{
	struct epoll_event events[EVENTS];
	int64_t end = now_ms() + timeout_ms;
	int n, left = timeout_ms;
	out = handed;
	n_out = *accept_error = 0;
	do {
		n = epoll_wait(poller, events, EVENTS, left);
		if (n <= 0 || one_turn(events, n, accept_error))
			break; /* a signal, too, is the caller's */
		if (timeout_ms > 0)
			left = end > now_ms() ? (int)(end - now_ms()) : 0;
	} while (left);
	return n_out;
}

int answer_close(int *handed)
{
	out = handed;
	n_out = 0;
	while (n_fresh)
		hand_over(fresh[0]);
	close(poller);
	poller = door = rest = -1;
	return n_out;
}
