/* line.h: what nfsload.py calls in line.c; read by the C compiler and by cffi, so declarations alone. */

enum { LINE_STATUSES = 16 };     /* different refusals that are told apart; the rest count as LINE_OTHER */
enum { LINE_SHORT = -1, LINE_STRANGER = -2, LINE_DENIED = -3, LINE_OTHER = -4 };

/* What was not a success: accept_stat << 32 | nfsstat3, or LINE_SHORT (a READ with fewer bytes than asked), LINE_STRANGER (no call
 * with that xid is in flight), LINE_DENIED (MSG_DENIED). */
struct line_refusal { int64_t what; uint64_t count; };

/* The answers so far; latency_s[i], in order of arrival, is from before the send, or when it was due, to after the
 * recv. */
struct line_result {
	uint64_t done;
	float *latency_s;
	uint32_t inflight;
	struct line_refusal refused[LINE_STATUSES];
};

/* One TCP connection with `depth` calls in flight, with line_send_group() up to `most`.
 * calls   records with marks, call i at starts[i] .. starts[i + 1], sent in turn; they stay the caller's, xids are written into them
 * tail    what follows each of them, one copy for all, so that the load sends it from the cache (WRITE's data); NULL, 0: nothing
 * least   a successful reply of fewer bytes counts as LINE_SHORT; null: replies have no nfsstat3
 * NULL: no memory. */
struct line *line_new(int fd, uint32_t depth, uint32_t most, uint8_t *calls, const uint64_t *starts, uint32_t n_calls,
		      const uint8_t *tail, uint64_t tail_len, uint32_t least, int null, uint32_t seed);
void line_free(struct line *l);
const struct line_result *line_result(const struct line *l);

/* 0, or -errno; when the socket's timeout is over -ETIMEDOUT for a send and -EAGAIN for a recv, -ENOTCONN when the server has closed
 * the connection, -ENOBUFS when more than `most` would be in flight. */
int line_send(struct line *l);                  /* once half of the calls are answered, as many again, in one send */
int line_send_group(struct line *l, uint32_t n, double due); /* so many now, which should leave at `due` (CLOCK_MONOTONIC) */
int line_take(struct line *l);                  /* one recv, and what whole replies came with it */
int line_run(struct line *l, double seconds, double *took); /* both in turn for so long, then until all is answered */
/* The same on `n` lines in one loop, each with its own depth; -EAGAIN when nothing comes on any of them for stall_s. */
int lines_run(struct line *const *lines, uint32_t n, double seconds, double stall_s, double *took);
