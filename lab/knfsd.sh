# in the guest, read by its shell (`. ./knfsd.sh`): the guest's own kernel serves /srv/inside on the guest's own disk, and "server" is
# from then on the guest itself: suites.sh and mounts of server:$LAB_EXPORT are served by Linux's nfsd without a wire
#   /root/knfsd      Debian's nfs-kernel-server unpacked (dpkg-deb -x; --put)
#   EXPORT_OPTIONS   as `sync` (async)
#   DISK_SIZE        of the ext4 that is served (4G), INODES its number of inodes (mkfs's own)
modprobe loop; truncate -s "${DISK_SIZE:-4G}" /root/disk; mkdir -p /srv/inside
mkfs.ext4 -q ${INODES:+-N $INODES} /root/disk && mount -o loop /root/disk /srv/inside || exit 1
rmdir /srv/inside/lost+found; chmod 1777 /srv/inside; export LAB_EXPORT=/srv/inside
sed -i "/ server\$/d" /etc/hosts; echo "$LAB_IP server" >> /etc/hosts
cp -a /root/knfsd/usr/sbin/* /usr/sbin/; mkdir -p /var/lib/nfs
sed -i /manage-gids/d /etc/nfs.conf  # the callers' own groups count, as with the other servers
modprobe nfsd; mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd; touch /var/lib/nfs/etab /var/lib/nfs/rmtab
echo "/srv/inside *(rw,no_root_squash,insecure,no_subtree_check,${EXPORT_OPTIONS:-async})" > /etc/exports
exportfs -ra && rpc.nfsd -N 4 4 && rpc.mountd -N 4 -p 20048 || exit 1
