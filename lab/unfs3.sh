# server command: unfs3 ($UNFS3: its unfsd) on a fresh export
set -e
EXPORT=${EXPORT:-$LAB_DIR/export}; mkdir -p "$EXPORT"
if [ -n "$EXPORT_SIZE" ]; then mountpoint -q "$EXPORT" || mount -t tmpfs -o size=$EXPORT_SIZE,mode=1777 export "$EXPORT"; fi
chmod 1777 "$EXPORT"
echo "$EXPORT (rw,no_root_squash,insecure)" > "$LAB_DIR/exports"
exec "${UNFS3:?path of its unfsd}" -d -e "$LAB_DIR/exports" -i "$LAB_DIR/unfsd.pid" -n 2049 -m 2049
