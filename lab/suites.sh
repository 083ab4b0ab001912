#!/bin/bash
# suites.sh OPTS NAME...: foreign suites on a mount, in the guest.  They are other projects' and are fetched and built elsewhere; each is
# brought in by --put as /root/NAME:
#   cthon04     Connectathon: basic, general, special (git.linux-nfs.org, steved/cthon04)
#   pjdfstest   pjd/pjdfstest, built; $ARGS: files (default: all), $JOBS at a time (4)
#   fsx         of xfstests (ltp/fsx); $N operations (100,000), with and without direct I/O
#   fsstress    of ltp; $N operations in each of 4 processes (600); then all is listed, read and removed
#   nfstest     NFStest, of its Python 3 releases (git.linux-nfs.org, mora/nfstest); $ARGS: its programs (nfstest_posix), each mounts for itself
# and of Debian's packages, which the guest has:
#   stress      stress-ng's file system class, $SECONDS_EACH (2) of each; fails where one fails that does not on a local disk
#   python      CPython's own tests of files, $TESTS
# Prints PASS or FAIL lines and seconds; what they say goes to /out (--out DIR).
opts=$1; shift
src=${LAB_EXPORT:-$(host 'echo $LAB_DIR/export')}
mount -t nfs -o "$opts" server:"$src" /mnt || { echo "FAIL mount $opts"; exit 1; }
work=/mnt/suite; failed=0; mkdir -p $work; chmod 777 $work

verdict() {  # verdict STATUS WHAT
    if [ "$1" = 0 ]; then echo "PASS $2"; else echo "FAIL $2 (status $1)"; failed=1; fi
}
cthon04() {
    export NFSTESTDIR=$work/cthon CC=gcc
    for d in basic general special; do
        rm -rf $NFSTESTDIR; cd /root/cthon04/$d || return
        PATH=.:$PATH CFLAGS="-DLINUX -w -std=gnu89" timeout 600 sh runtests -f > /out/cthon-$d.txt 2>&1
        verdict $? "cthon04 $d"
    done
}
pjdfstest() {
    cd /root/pjdfstest/tests || return; export LANG=C LC_ALL=C
    local list=${ARGS:-$(ls -d */*.t)}
    printf "$PWD/%s\n" $list > /tmp/list; cd $work
    prove --exec bash -j"${JOBS:-4}" -f --merge $(cat /tmp/list) > /out/pjdfstest.txt 2>&1
    local bad=$(grep -c '^not ok' /out/pjdfstest.txt)
    sed -n '/^Test Summary Report/,$p' /out/pjdfstest.txt | sed 's#/root/pjdfstest/tests/##' | grep -E '^(Files|[a-z_]*/[0-9]*.t)'
    verdict "$bad" "pjdfstest: failed checks $bad"
}
fsx() {
    for o in "" "-Z -r 4096 -w 4096 -t 4096"; do
        timeout "${LIMIT:-1800}" /root/fsx -q -S 7 -N "${N:-100000}" $o $work/fsxfile > /out/fsx.txt 2>&1
        verdict $? "fsx [$o] ${N:-100000} operations"
    done
}
fsstress() {
    mkdir -p $work/s; timeout 600 /root/fsstress -d $work/s -n "${N:-600}" -p 4 -s 7 -S t > /out/fsstress.txt 2>&1
    verdict $? "fsstress"
    find $work/s -type f -print0 | xargs -0 -r cat > /dev/null && ls -lR $work/s > /dev/null && rm -rf $work/s && [ ! -e $work/s ]
    verdict $? "fsstress: listed, read, removed"
}
nfstest() {
    local version=$(grep -oP 'vers=\K[^,]*' <<<"$opts") rest=$(sed -E 's/vers=[^,]*,?//' <<<"$opts"); mkdir -p /mnt/nfstest /mnt2
    for t in ${ARGS:-nfstest_posix}; do
        PYTHONPATH=/root/nfstest timeout "${LIMIT:-3000}" python3 /root/nfstest/test/$t --server server --export "$src" --datadir nfstest \
            --nfsversion "$version" --mtpoint /mnt2 --mtopts "hard,$rest" --tmpdir /tmp --notty > /out/$t.txt 2>&1
        verdict $? "NFStest $t: $(grep -oE '[0-9]+ tests? \(.*\)' /out/$t.txt | tail -1)"
        grep -A3 -E '^ *FAIL' /out/$t.txt | head -${LINES_KEPT:-40}
    done
    umount /mnt2 2>/dev/null; rm -rf /mnt/nfstest
}
stressor() {  # stressor DIRECTORY NAME: 2 is its status for a failed one; 3 and 4 say that it could not run here
    timeout -k 5 60 stress-ng --temp-path "$1" --timeout "${SECONDS_EACH:-2}" --verify --"$2" 1 > /out/stress-"$2".txt 2>&1
}
stress() {
    mkdir -p /tmp/local
    for s in $(stress-ng --class filesystem? 2>/dev/null | sed 's/.*: *//'); do
        stressor $work "$s"; local rc=$? there=0
        case $rc in 0|3|4) ;; *) stressor /tmp/local "$s"; there=$?;; esac
        [ $rc = $there ] && rc=0
        case $rc in 3|4) echo "SKIP stress-ng $s";; *) verdict $rc "stress-ng $s";; esac
        rm -rf $work/tmp-stress* /tmp/local/*
    done
}
python() {
    mkdir -p $work/p; cd $work/p || return
    for t in ${TESTS:-test_os test_shutil test_posix test_mmap test_fcntl test_file test_fileio test_io test_tempfile test_pathlib test_glob \
             test_mailbox test_dbm_dumb test_dbm test_zipfile test_tarfile test_stat test_genericpath test_posixpath test_largefile \
             test_bz2 test_gzip test_lzma test_filecmp test_fileinput test_shelve test_zipapp test_zipimport test_compileall \
             test_py_compile test_linecache test_ntpath}; do
        TMPDIR=$work/p timeout 600 python3 -m test -v --tempdir $work/p "$t" > /out/python-"$t".txt 2>&1
        verdict $? "CPython $t"
        grep -hE '^(ERROR|FAIL): ' /out/python-"$t".txt | sort -u | sed 's/^/    /'
    done
}
for name in "$@"; do
    case $name in cthon04|pjdfstest|fsx|fsstress|nfstest|stress|python) ;; *) echo "FAIL no suite $name"; exit 2;; esac
    begun=$(date +%s); $name; echo "$name took $(($(date +%s) - begun)) s"
done
cd /; rm -rf $work; verdict $? "everything removed"; umount /mnt; verdict $? umount
exit $failed
