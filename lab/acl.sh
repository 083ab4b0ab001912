#!/bin/bash
# acl.sh OPTS: POSIX ACLs over a mount, by getfacl(1) and setfacl(1) of the guest; the server's own view is the oracle.
# Run in a guest; exit status 0 when every line says OK.
opts=${1:-vers=3,nolock}
src=$(host 'echo $LAB_DIR/export')
mount -t nfs -o "$opts" server:"$src" /mnt || { echo "FAIL mount $opts"; exit 1; }
failed=0
check() {  # check NAME COMMAND
    if (set -e; eval "$2") > /tmp/check.log 2>&1; then echo "OK $1"; else echo "FAIL $1"; cat /tmp/check.log; failed=1; fi
}
there() { host "getfacl -ncEp $src/$1"; }   # what the server's file system says
here() { getfacl -ncEp "/mnt/$1"; }
as() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
mkdir /mnt/d; echo text > /mnt/f; chmod 600 /mnt/f
check plain_file        'test "$(here f)" = "$(there f)"'
check setfacl_user      'setfacl -m u:1000:r,g:2000:rw /mnt/f; test "$(here f)" = "$(there f)"; here f | grep -qx user:1000:r--'
check user_may_read     'as 1000 cat /mnt/f | grep -qx text'
check other_may_not     '! as 1001 cat /mnt/f'
check user_may_not_set  '! as 1000 setfacl -m u:1000:rw /mnt/f'
check mask_by_chmod     'chmod g=r /mnt/f; here f | grep -qx mask::r--; test "$(here f)" = "$(there f)"'
check remove            'setfacl -b /mnt/f; test "$(here f)" = "$(there f)"; ! as 1000 cat /mnt/f'
check default_acl       'setfacl -d -m u:1000:rwx,o::- /mnt/d; test "$(here d)" = "$(there d)"; there d | grep -qx default:user:1000:rwx'
check inherited_file    'umask 022; echo x > /mnt/d/new; there d/new | grep -q user:1000:; test "$(here d/new)" = "$(there d/new)"'
check inherited_dir     'mkdir /mnt/d/sub; test "$(here d/sub)" = "$(there d/sub)"; there d/sub | grep -qx default:user:1000:rwx'
check inherited_counts  'as 1000 cat /mnt/d/new | grep -qx x'
check copy              'cp -a /mnt/d /mnt/e; diff <(cd /mnt/d; getfacl -R .) <(cd /mnt/e; getfacl -R .)'
check remove_default    'setfacl -k /mnt/d; ! there d | grep -q default'
check many_entries      'for i in $(seq 3000 3100); do echo u:$i:r; done | setfacl -M - /mnt/f; test "$(here f | wc -l)" = 105; test "$(here f)" = "$(there f)"'
umount /mnt
exit $failed
