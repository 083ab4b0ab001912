/* parts.h: what each C file offers the others, from the ground up: a file calls those that stand above it here, never one below.
 * (fh.h, job.h and v2.h: what a few files share among themselves.)  The whole is compiled with -flto, so that what a call passes
 * through is inlined across files. */
#ifndef NFSSERVER_PARTS_H
#define NFSSERVER_PARTS_H
#include "vnode.h"

struct job;
struct statfs;

/* What getdents64(2) gives. */
struct linux_dirent { u64 ino; int64_t off; u16 len; u8 type; char name[]; };

/* siphash.c: a keyed hash for short input */
u64 siphash(const u64 key[2], const void *p, size_t n);
void siphash128(const u64 key[2], const void *p, size_t n, u64 out[2]);

/* worker.c: what all stand on */
const char *procpath(int fd, char buf[32]);
i32 exp_find(u32 id);
int status_of(int err);
int settled(const struct stat *st);

/* sync.c: fsync and what its failure means */
void verifier_change(void);
int sync_lost(int err);
int sync_status(int err);
void sync_begin(void);
u64 sync_begun(void);
int sync_file(int fd, int full);
int sync_fs(int fd, i32 fs);
int sync_file_failed(int fd, u64 since);
int sync_fs_failed(i32 fs, u64 since);
int sync_file_now(int fd, int full);
int sync_fs_now(int fd, i32 fs);

/* locks.c: between the workers */
void locks_init(shared_lock *users, shared_lock *dirs);
int worker_lives(u32 slot, u32 incarnation);
void shared_take(shared_lock *m);
void shared_unlock(shared_lock *m);
shared_lock *dir_lock(u64 dev, u64 ino);
shared_lock *dir_trylock(u64 dev, u64 ino);
int dir_trylock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, shared_lock **a, shared_lock **b);
void dir_lock_both(u64 dev_a, u64 ino_a, u64 dev_b, u64 ino_b, shared_lock **a, shared_lock **b);
shared_lock *users_lock(void);

/* grant.c: what Python decided for a caller */
void vn_forget_grants(void);
struct grant *grant_find(const struct call *c, u32 expid);
struct grant *grant_place(const struct call *c, u32 expid);

/* ident.c: under whose ids this thread calls the system */
int ident_init(int root, int keep_caps);
int ident_get(u32 uid, u32 gid, u32 n, const u32 *gids);
int ident_become(u32 ident);            /* this thread's fsuid, fsgid, groups; 0 or an errno (the call must then fail) */
int ident_adopt(u32 serial, u32 uid, u32 gid, u32 n, const u32 *gids);
int ident_root(void);
int ident_owner(int raised);
int ident_is_like(const struct keeper *k, u32 uid, u32 gid, u32 n, const u32 *gids);
extern __thread u32 my_serial;

/* drc.c: the duplicate request cache */
void drc_store(struct call *c);
void drc_forget(struct call *c);
void drc_note(struct call *c, u64 note);
int drc_init(int fd);

/* handle.c: handles as bytes */
int open_kernel_scheme(int mntfd, u32 type, const u8 *bytes, u32 n);
int fh2_of_fh3(const u8 *fh, u32 len, u8 out[32]);

/* fsid.c: what tells file systems apart */
u64 fs_identity(int fd, u64 dev, const struct statfs *sf);
int uuid_of_device(const char *directory, u64 dev, u8 out[16]);

/* fs.c: file systems */
i32 fs_of_dev(u64 dev);
void fs_probe(struct filesystem *f, int path_scheme);
int fs_is_readonly(i32 o);

/* deed.c: what a change asks of the kernel */
void exclusive_times(const u8 fsid[8], const struct stat *st, const u8 verf[8], struct timespec t[2]);
int sattr_set(int fd, int wfd, const struct sattr *s, int link);
void deed_do(struct call *c, struct deed *w);
void deed_lock(struct deed *w);
void change_end(struct change *ch);

/* work.c: what a thread does for a job */
u64 own_switches(void);
ssize_t write_all(int fd, const u8 *data, u32 count, u64 offset);

/* pool.c: the threads and their queues */
int pool_start(int threads);
void pool_kick(void);

/* jobs.c: what the loop gives to threads */
struct job *job_open(i32 fs, int mntfd, u32 type, const u8 *bytes, u32 n);
struct job *job_name(i32 fs, i32 dir, const char *name, const struct ident *id);
struct job *job_entries(i32 dir, u64 cookie, u32 count, int plus);
void job_free(struct job *j);
void pool_wait(struct call *d, struct job *j);
int pool_write(struct call *d, int fd, const struct write *w);
int pool_works(void);
int pool_deed(struct call *c, const struct deed *w);
int pool_read(struct call *c, int fd, u64 offset, u32 count, const struct stat *st);
int pool_sync(struct call *d, int fd, int datasync);
int pool_sync_more(struct call *d, int fd, int fd2, int whole);
void pool_flush(int fd, i32 fs);

/* cold.c: what would keep the loop waiting */
int is_slow(i32 fs, u64 now_ns);
void was_long_in_thread(i32 fs, u64 now_ns, u64 took_ns);
void cold_begin(const struct call *c, i32 fs);
void cold_end(const struct call *c, u64 now_ns);
int wait_for_handle(struct call *c, i32 fs, int mntfd, u32 type, const u8 *bytes, u32 n);
int wait_for_name(struct call *c, i32 dir, const char *name);
int wait_for_entries(struct call *c, i32 dir, u64 cookie, u32 count, int plus);
void opened_put(const struct call *c, int fd, u32 generation);
int opened_take(const struct call *c);
void vn_opened_drop(void);

/* here.c: syncs that the loop does itself */
int syncs_here(struct rpc_engine *e, u32 n_calls, u64 alone_ns);

/* obj.c: the table of objects */
i32 obj_find(const u8 *fh, u32 len);
void obj_drop(i32 o);
void obj_retire(i32 o);
void obj_unpin(i32 o);
void obj_touch(i32 o);
void obj_close_data(i32 o);
void spare_data(void);
int obj_stat(i32 o, struct stat *st);
int fh2_of(i32 o, u8 out[32]);

/* removable.c: exports whose medium comes and goes */
i32 removable_fs(const char *path);
int removable_attach(struct export *e);
void vn_release_removable(void);

/* export.c: the table of exports */
int exp_put(u32 id, u32 flags, const char *path, const u8 *fsid, u64 salt, u32 row);

/* args.c: arguments that procedures share */
int get_name(struct call *c, const u8 **pp, char *name);
int get_sattr(struct call *c, const u8 **pp, struct sattr *s);
int garbage(const struct call *c, const u8 *p, size_t need);

/* fh.c: from handles and names to objects */
int gate_fh(struct call *c, const u8 **pp, i32 *out);
int vn_root(i32 exp, i32 *out);
int obj_from_name(struct call *c, i32 dir, const char *name, i32 *out, struct stat *st);
int obj_from_fd(i32 exp, i32 fs, i32 parent, int fd, const struct stat *st, i32 *out); /* takes fd */
int obj_is_root(i32 o);
i32 obj_of_kernel_handle(i32 dir, const struct file_handle *h);
u8 name_to_fh(i32 dir, const char *name, u8 *fh, i32 *o, struct stat *st);

/* rights.c: what a caller may do */
int may(struct call *c, i32 o, const struct stat *st, int want);
int become_searcher(struct call *c, i32 dir, const struct stat *dst);

/* open.c: descriptors for data */
int obj_open(struct call *c, i32 o, int writing, int *fd, struct stat *attributes);
void obj_written(i32 o, const struct stat *pre, const struct stat *post);

/* attr.c: attributes in replies */
void put_fattr(struct call *c, i32 o, const struct stat *st);
void put_post_op(struct call *c, i32 o, const struct stat *st);
void put_wcc(struct call *c, i32 o, const struct stat *pre, const struct stat *post);
void put_fh(struct call *c, i32 o);

/* v2_result.c: results as version 2 has them */
int v2_result(struct call *c, u32 status);
u32 fold32(u64 v);

/* reply.c: the end of every reply */
int vn_close(struct call *c, u32 status);   /* counts, stores into the DRC, ends the reply; returns 0 */
void vn_tell(void);                          /* counts of exports and users that were kept back */
void vn_fail(struct call *c, u32 status);

/* users.c: active users */
u32 user_row(const struct call *c, u32 expid, u64 *serial);

/* cluster.c: tags in names */
int host_known(const struct call *c);
int cluster_name(const struct call *c, i32 dir, char name[256], int creating);

/* change.c: where a change is done, what it records and syncs */
int is_redone(const struct call *c);
void deed_hand(const struct call *c, struct deed *w);
void deed_drop(void);
int change_begin(struct call *c, struct deed *w, i32 dir, i32 dir2);
void put_change(struct call *c, const struct change *ch);
int change_fail(struct call *c, struct change *ch, u32 status);
int sync_fd(i32 o);
int durable_open(struct call *c, i32 o, i32 o2, size_t room, struct durable *s, struct call **d);
int durable_close(struct call *d, const struct durable *s);
int was_absent(const struct call *c);
int was_there(const struct call *c);
int dir_ready(struct call *c, i32 dir);
int name_ready(struct call *c, i32 dir, char name[256], int creating);

/* data.c: READ, WRITE, COMMIT */
void finish_read(struct call *c, u64 offset, u32 n, u32 count, const struct stat *st);
int finish_write(struct call *c, const struct change *ch, const struct write *w, ssize_t n, int err);
int finish_commit(struct call *c);
int vn_write(struct call *c);

/* facts.c: attributes, ACCESS, FSSTAT and their like */
int apply_sattr(struct call *c, i32 o, const struct sattr *s);

/* make.c: CREATE and its like */
int vn_create(struct call *c);
int vn_mknod(struct call *c);

/* webnfs.c: the public handle */
int is_public(const struct call *c);
int public_lookup(struct call *c, i32 *o, struct stat *st, i32 *dir, struct stat *dst);
#endif
