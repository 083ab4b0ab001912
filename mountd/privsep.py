"""Child processes of mountd: forking them, and giving up rights in them.

The network half and the helpers need nothing: not root, no capability, no file.  As an ordinary user there is nothing to give up
but the chance of new privileges.
"""
from __future__ import annotations

import logging
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import prctl

log = logging.getLogger(__name__)

USERS = ("_mountd", "daemon")  # the first that exists; not nobody, who owns what squashed clients make
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)


def fork_child(title: str, keep: Iterable[int], work: Callable[[], None]) -> int:
    """Runs `work` in a new process that has the descriptors 0, 1, 2 and `keep` only.  Returns its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _reset(title, keep)
        work()
        status = 0
    except BaseException:
        log.exception("%s failed", title)
    finally:
        os._exit(status)


def _reset(title: str, keep: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)   # Ctrl-C is for the whole group; the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_IGN if title.endswith("registrar") else signal.SIG_DFL)
    low = 3
    for fd in sorted({*keep, *_log_descriptors()}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    set_title(title)


def _log_descriptors() -> list[int]:
    """Those that the log handlers hold: the socket to syslog."""
    handlers = logging.getLogger().handlers
    return [handler.socket.fileno() for handler in handlers if hasattr(handler, "socket")]


def set_title(title: str) -> None:
    """What ps shows."""
    prctl.set_name(title.replace("mountd: ", "mountd-")[:15])
    prctl.set_proctitle(title)


def kill_child(pid: int) -> bool:
    """Ends a child at once.  False without CAP_KILL, for one that gave up root: it ends when its channel is closed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return False
    return True


def missing_rights() -> list[str]:
    """Lines "CAP_X missing: what stays" for a root (of a container) that cannot give up everything in its children."""
    if os.geteuid() != 0:
        return []
    have, lines = prctl.cap_effective, []
    if not have.sys_chroot:
        lines.append("CAP_SYS_CHROOT missing: the half that reads the network keeps its root directory")
    if not _can_become():
        lines.append("CAP_SETUID or CAP_SETGID missing: the halves without rights stay uid 0, without capabilities")
    elif not have.kill:
        lines.append("CAP_KILL missing: a half without rights that hangs cannot be ended")
    return lines


def drop_rights(empty: Path | None) -> None:
    """Gives up everything that can be given up, see missing_rights().

    Root directory (to `empty`, a directory of root's with nothing in it), user, groups, capabilities.
    """
    if os.geteuid() == 0:
        user, become = unprivileged_user(), _can_become()
        if empty is not None and prctl.cap_effective.sys_chroot:
            os.chroot(empty)
            os.chdir("/")
        if prctl.cap_effective.setpcap:  # without it no_new_privs alone keeps the bounding set out of reach
            prctl.capbset.limit()
        _become(user) if become else _stay()
    prctl.set_no_new_privs(1)
    prctl.set_dumpable(0)


def _can_become() -> bool:
    """Another user; not where nobody else is in this user namespace (user_namespaces(7))."""
    have = prctl.cap_effective
    return bool(have.setuid and have.setgid) and Path("/proc/self/setgroups").read_text().strip() != "deny"


def _stay() -> None:
    """Root without any capability."""
    prctl.cap_effective.limit()
    prctl.cap_permitted.limit()


def _become(user: pwd.struct_passwd) -> None:
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def unprivileged_user() -> pwd.struct_passwd:
    """Raises LookupError when none of USERS exists: better not to start than to serve strangers as root."""
    for name in USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError(f"none of the users {', '.join(USERS)} exists")
