#!/bin/bash
# million.sh OPTS: a directory of $COUNT entries (1,000,000) listed by the kernel's client, by name alone (ls -f) and with attributes
# (ls -l), or as $HOW says; prints `TIME server what seconds processor_seconds`, the latter of the guest (what the clock says depends
# on what else the machine does).  Where /root/knfsd is Debian's nfs-kernel-server unpacked (--put), the guest's own kernel serves as
# many entries on the guest's own disk over its loopback, and where /root/nfssvc is this project with what it imports (pip install
# --target nfssvc .; --put), so does it: in turn, $ROUNDS times (5).
opts=${1:-vers=3,nolock}; count=${COUNT:-1000000}
make='import os, sys
os.makedirs(sys.argv[1] + "/big"); os.chdir(sys.argv[1] + "/big")
for number in range(int(sys.argv[2])): os.mknod(f"entry-{number:07}")'
guest_s() {
    host "cat /proc/[0-9]*/stat 2>/dev/null | grep -E '\((linux.uml|qemu-.*)\)' | sed 's/.*) //' |
        awk '{t += \$12 + \$13 + \$14 + \$15} END {print t / 100}'"
}
list() {  # list WHO SOURCE OPTS
    mount -t nfs -o "$3" "$2" /mnt || { echo "FAIL mount $2"; return 1; }
    for how in ${HOW:-f l f}; do
        echo 3 > /proc/sys/vm/drop_caches
        local used=$(guest_s) begun=$(date +%s.%N) n=$(LC_ALL=C ls -$how /mnt/big | wc -l) ended=$(date +%s.%N)
        echo "TIME $1 ls -$how $(echo "$ended - $begun; $(guest_s) - $used" | bc | tr '\n' ' ')"
        [ "$n" -ge "$count" ] || { echo "FAIL $1: $n lines of $count"; return 1; }
    done
    [ "$TWICE" = no ] || ! LC_ALL=C ls -f /mnt/big | sort | uniq -d | grep . || { echo "FAIL $1: names twice"; return 1; }
    umount /mnt
}
disk_inside() {
    modprobe loop; truncate -s 4G /root/disk; mkfs.ext4 -q -N $((count + 100000)) /root/disk; mkdir -p /srv/inside
    mount -o loop /root/disk /srv/inside && python3 -c "$make" /srv/inside "$count" && sync
}
start_knfsd() {
    cp -a /root/knfsd/usr/sbin/* /usr/sbin/; mkdir -p /var/lib/nfs
    modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd; touch /var/lib/nfs/{etab,rmtab}
    echo '/srv/inside 127.0.0.1(rw,no_root_squash,insecure,no_subtree_check,async)' > /etc/exports
    exportfs -ra && rpc.nfsd -N 4 4 && rpc.mountd -N 4
}
start_nfssvc() {  # on port 3049
    local packages=/usr/local/lib/python3.11/dist-packages; mkdir -p $packages /root/state
    echo /root/nfssvc > $packages/nfssvc.pth
    echo '"/srv/inside" *(rw,no_root_squash,insecure,async)' > /root/exports
    NFSSVC_SOCKET=/root/state/nfssvc.sock XDG_RUNTIME_DIR=/root/state XDG_STATE_HOME=/root/state \
        python3 -m nfsd_master.unfsd -d -p -e /root/exports -i /root/unfsd.pid -n 3049 -m 3049 > /root/unfsd.log 2>&1 &
    for _ in $(seq 300); do rpcinfo -n 3049 -t 127.0.0.1 100005 3 > /dev/null 2>&1 && return; sleep 0.2; done
    cat /root/unfsd.log; return 1
}
failed=0
if [ "$OUTSIDE" != no ]; then
    src=$(host 'echo $LAB_DIR/export')
    { host "python3 -c '$make' $src $count" && list server "server:$src" "$opts"; } || failed=1
fi
if [ -d /root/knfsd ]; then
    disk_inside && start_knfsd && { [ ! -d /root/nfssvc ] || start_nfssvc; } || exit 1
    for _ in $(seq "${ROUNDS:-5}"); do
        [ ! -d /root/nfssvc ] ||
            list inside 127.0.0.1:/srv/inside "$opts,proto=tcp,port=3049,mountport=3049,mountproto=tcp" || failed=1
        list knfsd 127.0.0.1:/srv/inside "$opts" || failed=1
    done
    [ ! -d /root/nfssvc ] || kill %1
    rpc.nfsd 0
fi
exit $failed
