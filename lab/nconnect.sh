#!/bin/bash
# nconnect.sh: one client's mount with nconnect=4 is served by four workers, each with work of its own.
# Run in a guest against ours.sh; prints the processor time of each worker.
mount -t nfs -o vers=3,nolock,nconnect=4 server:"$(host 'echo $LAB_DIR/export')" /mnt || exit 1
workers() {  # name and clock ticks of each
    host 'cat /proc/[0-9]*/stat 2>/dev/null | sed -n -E "s/.*\(nfsd: (worker) ([0-9]+)\)( [^ ]+){11} ([0-9]+) ([0-9]+) .*/\1-\2 \4 \5/p" |
        sort' | awk '{print $1, $2 + $3}'
}
workers > /tmp/before
fio --directory=/mnt --filename=f --minimal --name=a --rw=write --bs=64k --size=128m --end_fsync=1 > /tmp/fio.log || { cat /tmp/fio.log; exit 1; }
fio --directory=/mnt --filename=f --minimal --name=b --rw=randread --bs=4k --size=128m --io_size=32m --direct=1 \
    --ioengine=libaio --iodepth=32 > /tmp/fio.log || { cat /tmp/fio.log; exit 1; }
workers > /tmp/after
rm /mnt/f; umount /mnt
join /tmp/before /tmp/after | awk '{print $1, $3 - $2, "ticks"; n += $3 > $2} END {
    print n, "workers at work"; exit n != 4}'
