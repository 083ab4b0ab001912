/* answer.h: the call socket's first hand.  One per process. */
#ifndef NFSSVC_ANSWER_H
#define NFSSVC_ANSWER_H
#include <stdint.h>

#define ANSWER_ROOM 256 /* connections that one turn hands over at the most */

int answer_open(const uint64_t *state, int listener, int rest); /* 0 or -errno; rest: the epoll descriptor of the caller's loop */
int answer_listen(int on);                                 /* takes newcomers (at first it does), or not; 0 or -errno */
/* Until `rest` is readable, timeout_ms are over (-1: for ever), a signal comes, or a connection is the caller's now; how many are. */
int answer_wait(int timeout_ms, int *handed, int *accept_error);
int answer_close(int *handed);                             /* the same for all that are left; takes no more */
#endif
