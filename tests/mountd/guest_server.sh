# Server command for test_guest.py: portmap on 111, nfsd and mountd as three daemons, mountd on a port of its own.
# PYTHON: an interpreter that has the project installed
set -e
mkdir -p "$LAB_DIR/export/sub" "$LAB_DIR/secret" "$LAB_DIR/state"
chmod 1777 "$LAB_DIR/export"
touch "$LAB_DIR/export/hello"
printf '%s *(rw)\n%s 10.99.0.77(rw)\n' "$LAB_DIR/export" "$LAB_DIR/secret" > "$LAB_DIR/exports"
"$PYTHON" -m portmap -f &
for _ in $(seq 100); do [ -n "$(ss -Hltn 'sport = :111')" ] && break; sleep 0.1; done
"$PYTHON" -m nfsd_master -F -n 2 --statedir "$LAB_DIR/state" --socket "$LAB_DIR/state/s" --key "$LAB_DIR/state/key" --log stderr &
exec "$PYTHON" -m mountd -d -l --socket "$LAB_DIR/state/s" --statedir "$LAB_DIR/state" "$LAB_DIR/exports"
