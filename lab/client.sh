#!/bin/bash
# client.sh OPTS: fixed pieces of a client's work on an NFS mount; prints `TIME name seconds server_seconds` for each:
# time on the clock, and processor time of all the server's processes.
# What bench/client compares servers by; run in a guest.
opts=${1:-vers=3,nolock}; files=${FILES:-100000}
PIECES=${PIECES:-write_1m_seq read_1m_seq read_4k_rand write_4k_rand untar compile git_clone git_status ls_lR ls_lR_noacl rm}
src=${LAB_EXPORT:-$(host 'echo $LAB_DIR/export')}
mount -t nfs -o "$opts" server:"$src" /mnt || { echo "FAIL mount $opts"; exit 1; }
cold() { sync; echo 3 > /proc/sys/vm/drop_caches; }
server_s() {  # whatever runs beside the server but the lab and its guests
    host 'cat /proc/[0-9]*/stat 2>/dev/null | grep -v -E "^1 |\((linux.uml|qemu-.*|cat|bash)\)" | sed "s/.*) //" |
        awk "{t += \$12 + \$13 + \$14 + \$15} END {print t / 100}"'
}
wanted() { [[ " $PIECES " == *" $1 "* ]]; }
piece() {  # piece NAME COMMAND: with cold caches
    wanted "$1" || return
    cold; local used=$(server_s) begun=$(date +%s.%N)
    if (set -e -o pipefail; cd /mnt; eval "$2") > /tmp/piece.log 2>&1; then
        local took=$(echo "$(date +%s.%N) - $begun" | bc)
        echo "TIME $1 $took $(echo "$(server_s) - $used" | bc)"
    else
        echo "FAIL $1"; tail -5 /tmp/piece.log; failed=1
    fi
}
fio="fio --directory=/mnt --filename=f --minimal"
failed=0
piece write_1m_seq  "$fio --name=a --rw=write --bs=1m --size=256m --end_fsync=1"
piece read_1m_seq   "$fio --name=b --rw=read --bs=1m --size=256m"
piece read_4k_rand  "$fio --name=c --rw=randread --bs=4k --size=256m --io_size=32m --direct=1 --ioengine=libaio --iodepth=16"
piece write_4k_rand "$fio --name=d --rw=randwrite --bs=4k --size=256m --io_size=32m --direct=1 --ioengine=libaio --iodepth=16"
if wanted untar; then
    tar -C /usr/lib/python3.11 -cf /tmp/tree.tar json email unittest asyncio
    mkdir /tmp/c; for i in $(seq 40); do printf '#include <stdio.h>\nint f%d(void){return printf("%d");}\n' $i $i > /tmp/c/f$i.c; done
    printf 'all: $(patsubst %%.c,%%.o,$(wildcard *.c))\n' > /tmp/c/Makefile; tar -C /tmp -rf /tmp/tree.tar c
fi
piece untar   "mkdir t; tar -C t -xf /tmp/tree.tar"
piece compile "make -s -C t/c -j2 && test -e t/c/f40.o"
if wanted git_clone; then
    git init -q /tmp/origin; cd /tmp/origin; git config user.email a@b; git config user.name a
    cp -r /usr/include/linux .; git add -A; git commit -qm one; cd /
fi
piece git_clone  "git clone -q /tmp/origin clone"
piece git_status "cd clone; git status --porcelain | wc -l | grep -qx 0"
! wanted ls_lR || host "python3 -c \"
import os
base = os.environ['LAB_DIR'] + '/export/many'
for i in range($files):
    if i % 1000 == 0: os.makedirs(f'{base}/{i // 1000}')
    open(f'{base}/{i // 1000}/file{i}', 'w').close()
\""
piece ls_lR "ls -lR many | grep -c file | grep -qx $files"
if wanted ls_lR_noacl; then  # without NFSACL, which unfs3 does not speak: with it `ls -l` asks for each file's ACL, one call at a time
    umount /mnt; mount -t nfs -o "$opts,noacl" server:"$src" /mnt || { echo "FAIL mount noacl"; exit 1; }
    piece ls_lR_noacl "ls -lR many | grep -c file | grep -qx $files"
    umount /mnt; mount -t nfs -o "$opts" server:"$src" /mnt || { echo "FAIL mount $opts"; exit 1; }
fi
piece rm  "rm -rf t clone f"
umount /mnt || failed=1
exit $failed
