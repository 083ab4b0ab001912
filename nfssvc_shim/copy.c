/* copy.c: copyin(9), copyout(9) and copyinstr(9) for a call that is no system call.
 *
 * Duty: read and write the caller's memory so that a bad pointer gives EFAULT.  process_vm_readv(2) of the own process does
 * it; where a sandbox refuses that call, a pipe does (the kernel touches the memory in write(2) and read(2)).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wire.h"

#define PIECE 4096 /* a pipe always takes this much at once (PIPE_BUF) */

static int refused(int err) { return err == ENOSYS || err == EPERM; }

static int by_pipe(void *dst, const void *src, size_t n)
{
	int fd[2], err = 0;
	if (pipe2(fd, O_CLOEXEC))
		return errno;
	for (size_t at = 0; at < n && !err; at += PIECE) {
		size_t piece = n - at < PIECE ? n - at : PIECE;
		if (write(fd[1], (const char *)src + at, piece) != (ssize_t)piece
		    || read(fd[0], (char *)dst + at, piece) != (ssize_t)piece)
			err = EFAULT;
	}
	close(fd[0]);
	close(fd[1]);
	return err;
}

int nfssvc_copyin(void *dst, const void *src, size_t n)
{
	struct iovec to = { dst, n }, from = { (void *)(uintptr_t)src, n };
	if (!n)
		return 0;
	ssize_t done = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	if (done < 0 && refused(errno))
		return by_pipe(dst, src, n);
	return done == (ssize_t)n ? 0 : EFAULT;
}

int nfssvc_copyout(void *dst, const void *src, size_t n)
{
	struct iovec from = { (void *)(uintptr_t)src, n }, to = { dst, n };
	if (!n)
		return 0;
	ssize_t done = process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	if (done < 0 && refused(errno))
		return by_pipe(dst, src, n);
	return done == (ssize_t)n ? 0 : EFAULT;
}

/* Page by page: the string may end just before memory that is not there. */
int nfssvc_copyinstr(char *dst, const char *src, size_t size)
{
	for (size_t at = 0; at < size;) {
		size_t piece = PIECE - ((uintptr_t)(src + at) & (PIECE - 1));
		if (piece > size - at)
			piece = size - at;
		int err = nfssvc_copyin(dst + at, src + at, piece);
		if (err)
			return err;
		if (memchr(dst + at, 0, piece))
			return 0;
		at += piece;
	}
	return ENAMETOOLONG;
}
