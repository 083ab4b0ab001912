/* fh.h: what the files behind a handle share with one another, from the ground up. */
#ifndef NFSSERVER_FH_H
#define NFSSERVER_FH_H
#include "parts.h"

#define MAX_HANDLE 40           /* FH_MAX - 16 - FH_MAC: bytes of a kernel handle that fit */
#define MAX_DEPTH (FH_MAX - 20 - FH_MAC)

struct kernel_handle { struct file_handle h; u8 room[128]; };

/* handle.c */
int kernel_handle_of(int fd, const char *name, struct kernel_handle *k, int *mntid);
void handle_seal(u8 *fh, size_t body, u64 salt);
int handle_verify(const u8 *fh, u32 len, i32 *exp);
size_t handle_head(u8 *fh, u32 version, u32 flags, u32 type, u32 n, u32 expid);
u8 mint_kernel(const struct export *e, const struct filesystem *f, const struct kernel_handle *k, u8 *fh);
u8 mint_removable(const struct export *e, u8 *fh);
int fh3_of_fh2(const u8 *fh2, u8 fh[FH_MAX], u32 *len);

/* fs.c */
i32 fs_add(int fd, const u8 *fsid, int path_scheme);
i32 fs_of_fsid(const u8 *fsid);
int mount_of(const struct export *e, i32 fs);
int mount_fd(const struct export *e, i32 fs, int *own);

/* obj.c */
int obj_drop_oldest(void);
u32 objs_allowed(u32 exports);
i32 obj_new(const u8 *fh, u32 len);
void obj_keep_fd(i32 o, int fd);
void obj_fill(i32 o, i32 exp, i32 fs, int fd, const struct stat *st);

/* path.c */
u8 chain_byte(u64 ino);
u8 mint_path(const struct export *e, const u8 *chain, u32 depth, int fd, const struct stat *st, u8 *fh);
int has_strayed(const struct export *e, int fd);
int is_export_root(i32 exp, const struct stat *st);
int climb_to_root(i32 exp, int fd, u8 up[MAX_DEPTH]);
int is_root_above(i32 exp, int fd, u32 steps);
int chain_of(i32 dir, u8 chain[MAX_DEPTH]);
int open_path_scheme(const struct export *e, const u8 *fh);

/* covered.c */
int open_covered(i32 dir, const char *name, struct stat *st);
#endif
