#!/bin/sh
# Duty: the Debian packages that building ("build") or testing ("test") needs and that are not here.  As root on Debian they are
# installed; otherwise one line says which are missing, and the exit status is 1.  Called by the Makefile.
# usage: PYTHON=/usr/bin/python3 sh tools/deps.sh build|test
set -u
python=${PYTHON:-/usr/bin/python3}
missing=

need() { # need PACKAGE COMMAND...: the package is missing when the command fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}
header() { echo "#include <$1>" | "${CC:-cc}" -E - ; }
python_header() {
	test -f "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h"
}
command_is() { command -v "$1" || test -x "/usr/sbin/$1" || test -x "/sbin/$1"; }

need python3 "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
need python3-venv "$python" -c 'import ensurepip, venv'
need python3-dev python_header
need gcc command_is "${CC:-cc}"
need libc6-dev header stdio.h
need libcap-dev header sys/capability.h   # python-prctl is built from source
if [ "${1:-build}" = test ]; then
	need libnfs-utils command_is nfs-ls
	need tshark command_is tshark
	need pkg-config command_is pkg-config
	need procps command_is ps
	need iproute2 command_is ip
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	# shellcheck disable=SC2086
	if { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
		rm -f "$log"
		exit 0
	fi
	tail -n 20 "$log" >&2
	rm -f "$log"
	echo "apt-get install$missing failed" >&2
	exit 1
fi
echo "missing Debian packages; as root: apt-get install$missing" >&2
exit 1
