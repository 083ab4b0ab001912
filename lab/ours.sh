# server command: this tree's unfsd on a fresh export, with our portmap on 111 unless one is there (--rpcbind)
#   PYTHON  an interpreter that has the project installed (default: the tree's .venv)
#   EXPORT, EXPORT_SIZE (a tmpfs of that size), EXPORT_OPTIONS (as `async`), WORKERS
set -e
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(realpath -s "${PYTHON:-$tree/.venv/bin/python}"); export PYTHONPATH=$tree
EXPORT=$(realpath -s "${EXPORT:-$LAB_DIR/export}"); cd "$tree"  # where -m looks first
mkdir -p "$EXPORT" "$LAB_DIR/state"
if [ -n "$EXPORT_SIZE" ]; then mountpoint -q "$EXPORT" || mount -t tmpfs -o size=$EXPORT_SIZE,mode=1777 export "$EXPORT"; fi
chmod 1777 "$EXPORT"
echo "\"$EXPORT\" *(rw,no_root_squash,insecure${EXPORT_OPTIONS:+,$EXPORT_OPTIONS})" > "$LAB_DIR/exports"
if [ -z "$(ss -Hltn 'sport = :111')" ]; then
    "$python" -m portmap &
    for _ in $(seq 100); do [ -n "$(ss -Hltn 'sport = :111')" ] && break; sleep 0.1; done
fi
export NFSSVC_SOCKET=$LAB_DIR/state/nfssvc.sock XDG_RUNTIME_DIR=$LAB_DIR/state XDG_STATE_HOME=$LAB_DIR/state
exec "$python" -m nfsd_master.unfsd -d -e "$LAB_DIR/exports" -i "$LAB_DIR/unfsd.pid" -n 2049 -m 2049 --workers "${WORKERS:-4}"
