/* parts.h: what each file of the engine offers the others, from the ground up: a file calls those that stand above it here, never one
 * below.  The whole is compiled with -flto, so that what a call passes through is inlined across files.
 */
#ifndef ONCRPC_ENGINE_PARTS_H
#define ONCRPC_ENGINE_PARTS_H
#include "core.h"

/* buf.c: buffers, kept for reuse */
struct buf *buf_new(struct engine *e, size_t cap);
void buf_free(struct engine *e, struct buf *b);
struct buf *in_new(struct engine *e, size_t cap);
void bury(struct engine *e, struct buf *b);
void buf_free_kept(struct engine *e);

/* table.c: credentials and peers, each kept once */
u32 keyed_hash(const u64 key[2], const u8 *p, size_t n);
void table_init(struct table *t, void *records, u32 size);
u32 record_serial(const struct table *t, u32 i);
u32 intern(struct engine *e, struct table *t, const void *record);

/* conn.c: the sockets: their table, the queue of those that are ready, what they are armed for, their end */
struct conn *conn_find(struct engine *e, u32 id, u32 gen);
void conn_enqueue(struct engine *e, struct conn *c);
void age_link(struct engine *e, struct conn *c);
void conn_touch(struct engine *e, struct conn *c);
bool conn_blocked(const struct engine *e, const struct conn *c);
void conn_arm(struct engine *e, struct conn *c);
void end_record(struct engine *e, struct conn *c);
void rearm_listeners(struct engine *e);
void kill_conn(struct engine *e, struct conn *c);
int grow_conns(struct engine *e);

/* evict.c: who has to go */
bool evict(struct engine *e, u32 bucket);
void evict_partial(struct engine *e, struct conn *except, size_t want);
void evict_stalled(struct engine *e);
void sweep(struct engine *e);

/* address.c: from whom and to which of our addresses a call came */
void set_peer(struct rpc_peer *p, u16 *port, const void *sa, size_t len);

/* send.c: bytes out: connections and relays */
void send_bytes(struct engine *e, struct conn *c, const u8 *p, size_t n, struct buf **own);
void drain(struct engine *e, struct conn *c);
void before_sending(struct engine *e);
void send_relay(struct engine *e, struct conn *c, u32 serial, const u8 *msg, size_t len);

/* datagram_out.c: datagrams out */
void flush_udp(struct engine *e);

/* room.c: where a reply is written, and how the replies of a batch leave */
void flush_tcp(struct engine *e);
int op_room(struct call *c, size_t room);

/* watch.c: whoever watches the server (trace.h) */
void keep_seen(struct engine *e, struct slot *s);
void forget_seen(struct engine *e, struct slot *s);
void end_trace(struct engine *e, struct tracer **at);
void flush_traces(struct engine *e);

/* program.c: which procedures there are */
void version_range(struct engine *e, u32 prog, u32 *low, u32 *high);
i32 find_row(struct engine *e, u32 prog, u32 vers, u32 proc, u32 *stat);

/* detach.c: calls that are answered later */
void free_detached(struct engine *e, struct detached *d);
void close_detached(struct engine *e, struct detached *d);
struct call *op_detach(struct call *c, size_t room);
int op_full(const struct call *c, size_t room);
void op_complete(struct call *c);
void collect_done(struct engine *e);
void take_finished(struct engine *e);

/* reply.c: how calls end */
void op_close(struct call *c);
void op_drop(struct call *c);
void op_deny(struct call *c, u32 accept_stat);
void op_deny_auth(struct call *c, u32 auth_stat);
void deny_rpcvers(struct call *c);

/* cred.c: who calls */
u32 auth_sys(struct engine *e, struct conn *conn, const u8 *p, u32 n);
u32 auth_none(struct engine *e);
u32 conn_peer(struct engine *e, struct conn *conn, const struct rpc_peer *addr);

/* message.c: one RPC message */
int take_message(struct engine *e, struct conn *conn, const struct rpc_peer *addr, u16 port, const u8 *m, size_t n, struct buf **own);

/* share.c: how many calls a turn may take */
void share_begin(struct engine *e);
void share_turn(struct engine *e, struct conn *c);
void share_took(struct engine *e, struct conn *c);
void share_end(struct engine *e, u32 waiting);

/* record.c: TCP and local connections: bytes to records */
bool turn_over(const struct engine *e, const struct conn *c);
void turn_conn(struct engine *e, struct conn *c);

/* datagram_in.c: datagrams in */
void turn_udp(struct engine *e, struct conn *c);

/* relay.c: calls that another process received */
void turn_relay(struct engine *e, struct conn *c);

/* listen.c: new connections */
void turn_listen(struct engine *e, struct conn *c);

/* wait.c: for events */
struct epoll_event;
int wait_events(struct engine *e, struct epoll_event *ev, int timeout_ms, u32 served);

/* poll.c: the batch and its turns */
void end_batch(struct engine *e);
#endif
