/* answer.h: the call socket's first hand.  One per process. */
#ifndef NFSSVC_ANSWER_H
#define NFSSVC_ANSWER_H
#include <stdint.h>

#define ANSWER_ROOM 256 /* connections that one turn hands over at the most */

int answer_open(const uint64_t *state, int listener);      /* a descriptor to poll for reading, or -errno */
int answer_listen(int on);                                 /* takes newcomers (at first it does), or not; 0 or -errno */
int answer_turn(int *handed, int *accept_error);           /* never blocks; how many connections are the caller's now */
int answer_close(int *handed);                             /* the same for all that are left; takes no more */
#endif
