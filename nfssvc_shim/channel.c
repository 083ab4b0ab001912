/* channel.c: one request and its reply over the call socket (PROTOCOL.md, section 2; nfssvc_shim/channel.py is the other end).
 *
 * A connection lives for one call: the server takes the caller's rights from connect(2), so a process that gave its
 * privilege up asks without it, and nothing is left in the process that fork(2) or closefrom(3) could upset.  (kept.c has the
 * exception.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire.h"

#define MAX_INLINE 65536u
#define MAX_BODY (64u << 20)
#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SERIAL 1u     /* one request at a time */
#define DEADLINE_S 60 /* longer than the server takes to fence a stuck worker; NFSD alone waits for ever */

/* ---- where the server is */

static int connect_to(int sock, const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof sun.sun_path)
		return ENAMETOOLONG;
	strcpy(sun.sun_path, path);
	while (connect(sock, (struct sockaddr *)&sun, sizeof sun)) {
		if (errno != EINTR)
			return errno;
	}
	return 0;
}

/* The folder of a server that an ordinary user runs: $XDG_RUNTIME_DIR, else /tmp/nfsd-<uid>, which only counts when it is this
 * user's own and nobody else can write there. */
static int user_socket(const char *xdg, char *path, size_t room)
{
	struct stat st;
	char own[64];
	snprintf(own, sizeof own, "/tmp/nfsd-%u", (unsigned)geteuid());
	if (!xdg || !*xdg) {
		if (lstat(own, &st) || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
			return 0;
		xdg = own;
	}
	return (size_t)snprintf(path, room, "%s/nfsd/nfssvc.sock", xdg) < room;
}

static int connect_default(int sock)
{
	char path[sizeof ((struct sockaddr_un *)0)->sun_path];
	const char *env = secure_getenv("NFSSVC_SOCKET"), *xdg = secure_getenv("XDG_RUNTIME_DIR");
	if (env && *env)
		return connect_to(sock, env);
	int err = connect_to(sock, "/run/nfsd/nfssvc.sock");
	if ((err == ENOENT || err == ECONNREFUSED) && user_socket(xdg, path, sizeof path))
		err = connect_to(sock, path);
	return err;
}

/* ENOSYS: no server, as a kernel without one; EPERM: the socket is not for this user. */
int nfssvc_open(const char *path, unsigned flag, int *sock)
{
	struct timeval deadline = { .tv_sec = DEADLINE_S };
	*sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (*sock < 0)
		return errno;
	int err = setsockopt(*sock, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline) ? errno : 0;
	if (!err && flag != W_NFSD && setsockopt(*sock, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline))
		err = errno;
	if (!err)
		err = path ? connect_to(*sock, path) : connect_default(*sock);
	if (err)
		close(*sock);
	return err == ENOENT || err == ECONNREFUSED || err == ENOTDIR ? ENOSYS : err == EACCES ? EPERM
	     : err == EAGAIN ? ETIMEDOUT : err;
}

/* ---- out */

static int memfd_of(const void *data, size_t len, int *fd)
{
	*fd = memfd_create("nfssvc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0)
		return errno;
	for (size_t at = 0; at < len;) {
		ssize_t n = write(*fd, (const char *)data + at, len - at);
		if (n < 0 && errno != EINTR)
			return errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return fcntl(*fd, F_ADD_SEALS, SEALS) ? errno : 0;
}

static int send_packet(int sock, const struct header *head, const void *body, size_t len, const int *fds, unsigned n_fds)
{
	union { struct cmsghdr align; char room[CMSG_SPACE((NFSSVC_MAXFDS + 1) * sizeof(int))]; } control;
	struct iovec iov[2] = { { (void *)(uintptr_t)head, sizeof *head }, { (void *)(uintptr_t)body, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = len ? 2 : 1 };
	if (n_fds) {
		mh.msg_control = control.room;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		memset(control.room, 0, sizeof control.room);
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n_fds * sizeof(int));
	}
	while (sendmsg(sock, &mh, MSG_NOSIGNAL) < 0) {
		if (errno != EINTR)
			return errno == EAGAIN ? ETIMEDOUT : errno;
	}
	return 0;
}

static int send_request(int sock, unsigned flag, const struct nfssvc_msg *msg)
{
	int fds[NFSSVC_MAXFDS + 1], memfd = -1, err = 0;
	unsigned n_fds = msg->n_fds, wide = msg->body_len > MAX_INLINE;
	if (n_fds > NFSSVC_MAXFDS || msg->body_len > MAX_BODY)
		return EINVAL;
	if (n_fds)
		memcpy(fds, msg->fds, n_fds * sizeof(int));
	if (wide) {
		err = memfd_of(msg->body, msg->body_len, &memfd);
		fds[n_fds++] = memfd;
	}
	struct header head = { be(MAGIC), be(VERSION), be(flag | (wide ? BY_MEMFD : 0)), be(SERIAL), 0, be((uint32_t)msg->body_len) };
	if (!err)
		err = send_packet(sock, &head, msg->body, wide ? 0 : msg->body_len, fds, n_fds);
	if (memfd >= 0)
		close(memfd);
	return err;
}

/* ---- back */

static void take_fds(struct msghdr *mh, struct nfssvc_msg *msg)
{
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		unsigned n = (unsigned)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(msg->reply_fds, CMSG_DATA(cm), n * sizeof(int));
		msg->n_reply_fds = n;
	}
}

static int read_memfd(struct nfssvc_msg *msg, size_t len)
{
	struct stat st;
	int fd = msg->reply_fds[--msg->n_reply_fds], seals = fcntl(fd, F_GET_SEALS), err = EPROTO;
	if (seals >= 0 && (seals & SEALS) == SEALS && !fstat(fd, &st) && (size_t)st.st_size == len && len <= MAX_BODY) {
		msg->reply = malloc(len ? len : 1);
		err = !msg->reply ? ENOMEM : pread(fd, msg->reply, len, 0) == (ssize_t)len ? 0 : EPROTO;
		msg->reply_len = len;
	}
	close(fd);
	return err;
}

static int may_come(unsigned came, unsigned flag)
{
	return came == flag || (flag == W_NFSD && (came == W_NEEDAUTH || came == W_AUTHIN));
}

static int read_packet(const unsigned char *packet, size_t len, unsigned flag, struct nfssvc_msg *msg, unsigned *came)
{
	struct header head;
	if (len < sizeof head)
		return EPROTO;
	memcpy(&head, packet, sizeof head);
	uint32_t wide = be(head.flag) & BY_MEMFD, body_len = be(head.length);
	*came = be(head.flag) & ~BY_MEMFD;
	if (be(head.magic) != MAGIC || be(head.version) != VERSION || !may_come(*came, flag) || be(head.serial) != SERIAL)
		return EPROTO;
	if (wide && (len != sizeof head || !msg->n_reply_fds))
		return EPROTO;
	if (wide) {
		int err = read_memfd(msg, body_len);
		return err ? err : (int)be(head.error);
	}
	if (body_len != len - sizeof head)
		return EPROTO;
	if (body_len) {
		msg->reply = malloc(body_len);
		if (!msg->reply)
			return ENOMEM;
		memcpy(msg->reply, packet + sizeof head, body_len);
		msg->reply_len = body_len;
	}
	return (int)be(head.error);
}

/* NFSD ends with 0 when a signal comes or the server goes (nfssvc(2), RETURN VALUES); anything else waits on. */
static int receive_reply(int sock, unsigned flag, const sigset_t *mask, struct nfssvc_msg *msg, unsigned *came)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(NFSSVC_MAXFDS * sizeof(int))]; } control;
	size_t room = sizeof(struct header) + MAX_INLINE;
	unsigned char *packet = malloc(room);
	struct iovec iov = { packet, room };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room };
	ssize_t n;
	int err;
	if (!packet)
		return ENOMEM;
	struct pollfd readable = { .fd = sock, .events = POLLIN };
	n = flag == W_NFSD ? ppoll(&readable, 1, NULL, mask) : 0;
	if (n >= 0)
		do
			n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
		while (n < 0 && errno == EINTR);
	if (n < 0)
		err = errno == EINTR ? 0 : errno == EAGAIN ? ETIMEDOUT : errno;
	else if (n == 0)
		err = flag == W_NFSD ? 0 : ECONNRESET;
	else {
		take_fds(&mh, msg);
		err = mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? EPROTO : read_packet(packet, (size_t)n, flag, msg, came);
	}
	free(packet);
	return flag == W_NFSD && err == ECONNRESET ? 0 : err;
}

void nfssvc_release(struct nfssvc_msg *msg)
{
	while (msg->n_reply_fds)
		close(msg->reply_fds[--msg->n_reply_fds]);
	free(msg->reply);
	msg->reply = NULL;
	msg->reply_len = 0;
}

static int ask(int sock, unsigned flag, const sigset_t *mask, struct nfssvc_msg *msg, unsigned *came)
{
	int err = send_request(sock, flag, msg);
	/* A server that answers before it has read (EPERM) may have closed: its answer still lies in the socket. */
	return err && err != EPIPE ? err : receive_reply(sock, flag == W_AUTHIN ? W_NFSD : flag, mask, msg, came);
}

/* The signals of NFSD wait until we do: one that came between asking and waiting would otherwise end nothing. */
int nfssvc_talk(int sock, unsigned flag, struct nfssvc_msg *msg, unsigned *came)
{
	sigset_t all, mask;
	int waits = flag == W_NFSD || flag == W_AUTHIN, err;
	msg->reply = NULL;
	msg->reply_len = msg->n_reply_fds = 0;
	*came = flag;
	sigfillset(&all);
	if (waits && (err = pthread_sigmask(SIG_BLOCK, &all, &mask)) != 0)
		return err;
	err = ask(sock, flag, &mask, msg, came);
	if (waits)
		pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (err)
		nfssvc_release(msg);
	return err;
}

int nfssvc_exchange(const char *path, unsigned flag, struct nfssvc_msg *msg)
{
	unsigned came;
	int sock, err;
	msg->reply = NULL;
	msg->reply_len = msg->n_reply_fds = 0;
	if ((err = nfssvc_open(path, flag, &sock)) != 0)
		return err;
	err = nfssvc_talk(sock, flag, msg, &came);
	close(sock);
	return err;
}
