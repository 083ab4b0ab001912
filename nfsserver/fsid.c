/* fsid.c: what stands for a file system in handles and in fattr3.fsid, the same after a reboot and under another device name.
 *
 * statfs(2) f_fsid is made from the UUID by ext4 and btrfs, and is used as it is.  Others put the device number there (xfs, vfat),
 * which the order decides in which disks are found: then it is the UUID, asked of the file system (ioctl_fs_getfsuuid, Linux 6.9)
 * or found as udev's link to the device.  What has none keeps its device number: there `fsid=` of exports(5) helps. */
#include "parts.h"
#include <dirent.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#define BY_UUID "/dev/disk/by-uuid"
#define UUID_MAX 16
#define LINKS_MAX 4096 /* links looked at: a machine has some dozens of disks */

struct uuid { u8 len, byte[UUID_MAX]; };
#define GETFSUUID _IOR(0x15, 0, struct { u8 len; u8 byte[16]; }) /* FS_IOC_GETFSUUID of linux/fs.h */

/* Is f_fsid nothing but the device's number, as u64_to_fsid(huge_encode_dev()) in the kernel writes it? */
static int is_device(const u32 fsid[2], dev_t dev)
{
	u32 number = (minor(dev) & 0xff) | major(dev) << 8 | (minor(dev) & ~0xffu) << 12;
	return !fsid[1] && (!fsid[0] || fsid[0] == number);
}

/* "8c1f2a7e-...", or the short numbers of FAT and NTFS: hexadecimal digits in pairs, '-' between.  0 when it is something else. */
static int parse_uuid(const char *text, struct uuid *u)
{
	*u = (struct uuid){ 0 };
	while (*text && u->len < UUID_MAX) {
		unsigned byte;
		int used = 0;
		if (*text == '-') {
			text++;
			continue;
		}
		if (sscanf(text, "%2x%n", &byte, &used) != 1 || used != 2)
			return 0;
		u->byte[u->len++] = (u8)byte;
		text += 2;
	}
	return u->len && !*text;
}

/* The UUID of the block device `dev` by the links in `directory`.  0: there is none. */
int uuid_of_device(const char *directory, u64 dev, u8 out[UUID_MAX])
{
	DIR *links = opendir(directory);
	struct uuid u = { 0 };
	const struct dirent *d;
	struct stat st;
	int found = 0;
	for (int i = 0; links && !found && i < LINKS_MAX && (d = readdir(links)); i++)
		found = parse_uuid(d->d_name, &u) && !fstatat(dirfd(links), d->d_name, &st, 0) && S_ISBLK(st.st_mode) && st.st_rdev == dev;
	if (links)
		closedir(links);
	memcpy(out, u.byte, UUID_MAX);
	return found ? u.len : 0;
}

/* 64 bits that stand for the file system of `fd` on device `dev`. */
u64 fs_identity(int fd, u64 dev, const struct statfs *sf)
{
	u64 fixed[2] = { 0x75756964ull, (u64)sf->f_type }, id = 0;
	struct uuid u = { 0 };
	u32 fsid[2];
	memcpy(fsid, &sf->f_fsid, sizeof fsid);
	memcpy(&id, &sf->f_fsid, sizeof id);
	if (is_device(fsid, dev) && (!ioctl(fd, GETFSUUID, &u) || (u.len = (u8)uuid_of_device(BY_UUID, dev, u.byte))))
		return u.len && u.len <= UUID_MAX ? siphash(fixed, u.byte, u.len) : id ? id : dev;
	return id ? id : dev;
}
