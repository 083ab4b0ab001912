#!/bin/bash
# million.sh OPTS: a directory of $COUNT entries (1,000,000) listed by the kernel's client, by name alone (ls -f) and with attributes
# (ls -l), or as $HOW says; prints `TIME server what seconds`.  Where /root/knfsd is Debian's nfs-kernel-server unpacked (--put), the
# guest's own kernel serves as many entries on the guest's own disk over its loopback, for comparison.
opts=${1:-vers=3,nolock}; count=${COUNT:-1000000}
make='import os, sys
os.makedirs(sys.argv[1] + "/big"); os.chdir(sys.argv[1] + "/big")
for number in range(int(sys.argv[2])): os.mknod(f"entry-{number:07}")'
list() {  # list WHO SOURCE OPTS
    mount -t nfs -o "$3" "$2" /mnt || { echo "FAIL mount $2"; return 1; }
    for how in ${HOW:-f l f}; do
        echo 3 > /proc/sys/vm/drop_caches
        local begun=$(date +%s.%N) n=$(LC_ALL=C ls -$how /mnt/big | wc -l)
        echo "TIME $1 ls -$how $(echo "$(date +%s.%N) - $begun" | bc)"
        [ "$n" -ge "$count" ] || { echo "FAIL $1: $n lines of $count"; return 1; }
    done
    LC_ALL=C ls -f /mnt/big | sort | uniq -d | grep . && { echo "FAIL $1: names twice"; return 1; }
    umount /mnt
}
failed=0
src=$(host 'echo $LAB_DIR/export')
{ host "python3 -c '$make' $src $count" && list server "server:$src" "$opts"; } || failed=1
if [ -d /root/knfsd ]; then
    modprobe loop; truncate -s 4G /root/disk; mkfs.ext4 -q -N $((count + 100000)) /root/disk; mkdir -p /srv/inside
    mount -o loop /root/disk /srv/inside && python3 -c "$make" /srv/inside "$count" && sync || exit 1
    cp -a /root/knfsd/usr/sbin/* /usr/sbin/; mkdir -p /var/lib/nfs
    modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd; touch /var/lib/nfs/{etab,rmtab}
    echo '/srv/inside 127.0.0.1(rw,no_root_squash,insecure,no_subtree_check,async)' > /etc/exports
    exportfs -ra && rpc.nfsd -N 4 4 && rpc.mountd -N 4 && list knfsd 127.0.0.1:/srv/inside "$opts" || failed=1
    rpc.nfsd 0
fi
exit $failed
