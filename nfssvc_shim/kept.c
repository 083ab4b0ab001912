/* kept.c: the one connection that a process keeps, for what every local user may ask (SRVSTATS, USERCOUNT).
 *
 * A program that watches a server asks that often, and making the connection is most of what such a call costs both sides.  The
 * answer does not depend on who asks, so it does not matter whose rights the connection was made with; all other calls have one
 * of their own (channel.c).
 *
 * States: none; asked once (when was that?); kept.  Who asks again within a second keeps what that call was made over, so a program
 * that asks now and then leaves nothing behind.  A kept connection is used by one thread at a time; another one that comes meanwhile
 * makes its own.  It is believed only while all is as it was when it was made:
 *
 *   this process       a child of fork(2) shares the descriptor, and would take its parent's answers
 *   this descriptor    closefrom(3) may have closed it and open(2) given the number away: then it is not ours to close
 *   this caller, and the environment: they say which server is asked
 *
 * Any failure ends it, and the call is made once more over a new one: asking twice changes nothing.  (But not after ETIMEDOUT: a
 * minute is what a caller waits.)  A thread that is cancelled or jumps out in the middle leaves the lock taken, and this process
 * goes on without.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

#define AGAIN_MS 1000 /* asks often: a screen that is drawn each second, and what is faster */
#define PLACE 256     /* bytes of the two paths that say where the server is; with longer ones nothing is kept */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	int fd; /* valid while `pid` is ours */
	pid_t pid;
	uid_t uid;
	dev_t dev;
	ino_t ino;
	char place[PLACE];
} kept;
static int64_t asked_ms; /* when a call was last made without keeping its connection; 0: never */

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* What nfssvc_open() goes by; 0 when it does not fit. */
static int place_now(char place[PLACE])
{
	const char *env = secure_getenv("NFSSVC_SOCKET"), *xdg = secure_getenv("XDG_RUNTIME_DIR");
	size_t a = env ? strlen(env) + 1 : 0, b = xdg ? strlen(xdg) + 1 : 0;
	if (a + b + 2 > PLACE)
		return 0;
	memset(place, 0, PLACE);
	memcpy(place, env ? env : "", a);
	memcpy(place + a + 1, xdg ? xdg : "", b);
	return 1;
}

static int still_ours(void)
{
	struct stat st;
	return !fstat(kept.fd, &st) && S_ISSOCK(st.st_mode) && st.st_dev == kept.dev && st.st_ino == kept.ino;
}

static void forget(void)
{
	if (kept.pid && still_ours())
		close(kept.fd); /* in a child it is the child's copy */
	kept.pid = 0;
}

static int usable(const char place[PLACE])
{
	return kept.pid && kept.pid == getpid() && kept.uid == geteuid() && still_ours() && !memcmp(place, kept.place, PLACE);
}

static void keep(int fd, const char place[PLACE])
{
	struct stat st;
	if (fstat(fd, &st)) {
		close(fd);
		return;
	}
	kept.fd = fd;
	kept.pid = getpid();
	kept.uid = geteuid();
	kept.dev = st.st_dev;
	kept.ino = st.st_ino;
	memcpy(kept.place, place, PLACE);
}

/* A call over a new connection, which is kept when the last such call was lately. */
static int by_new(const char place[PLACE], unsigned flag, struct nfssvc_msg *msg)
{
	unsigned came;
	int fd, err = nfssvc_open(NULL, flag, &fd);
	int64_t now = now_ms(), since = now - asked_ms;
	if (err)
		return err;
	err = nfssvc_talk(fd, flag, msg, &came);
	if (!err && asked_ms && since < AGAIN_MS)
		keep(fd, place);
	else
		close(fd);
	asked_ms = now;
	return err;
}

static int by_kept(unsigned flag, struct nfssvc_msg *msg)
{
	unsigned came;
	int err = nfssvc_talk(kept.fd, flag, msg, &came);
	if (err)
		forget();
	return err;
}

int nfssvc_ask_often(unsigned flag, struct nfssvc_msg *msg)
{
	char place[PLACE];
	int err;
	if (!place_now(place) || pthread_mutex_trylock(&lock))
		return nfssvc_exchange(NULL, flag, msg);
	if (!usable(place))
		forget();
	err = kept.pid ? by_kept(flag, msg) : EPIPE;
	if (err && err != ETIMEDOUT)
		err = by_new(place, flag, msg);
	pthread_mutex_unlock(&lock);
	return err;
}
