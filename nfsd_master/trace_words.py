"""What a traced call says, in words: procedure, arguments, status, results; for the eye, so no more than fits into a line.

A row of a table names a procedure, its arguments and its results as words: `kind` or `key:kind`, each decoded by a function
below, those without a key only passed over.  A message that was cut, or that is no XDR, gives what could be read of it.
Source: RFC 1813, RFC 1094, RFC 1813 appendix I (MOUNT), nfs_acl.x.
"""
from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from oncrpc.xdr import Unpacker, XdrError

Value = str | int | bool
Values = dict[str, Value]

_NAME, _LINK, _HANDLE = 255, 4096, 64   # limits of what is shown; longer ones are not NFS
_TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFBLK, 4: stat.S_IFCHR, 5: stat.S_IFLNK, 6: stat.S_IFSOCK, 7: stat.S_IFIFO}
_RIGHTS = ("read", "lookup", "modify", "extend", "delete", "execute")
_STABLE = ("UNSTABLE", "DATA_SYNC", "FILE_SYNC")
_HOW = ("UNCHECKED", "GUARDED", "EXCLUSIVE")

STATUS = {
    0: "OK", 1: "PERM", 2: "NOENT", 5: "IO", 6: "NXIO", 13: "ACCES", 17: "EXIST", 18: "XDEV", 19: "NODEV", 20: "NOTDIR",
    21: "ISDIR", 22: "INVAL", 27: "FBIG", 28: "NOSPC", 30: "ROFS", 31: "MLINK", 63: "NAMETOOLONG", 66: "NOTEMPTY", 69: "DQUOT",
    70: "STALE", 71: "REMOTE", 99: "WFLUSH", 10001: "BADHANDLE", 10002: "NOT_SYNC", 10003: "BAD_COOKIE", 10004: "NOTSUPP",
    10005: "TOOSMALL", 10006: "SERVERFAULT", 10007: "BADTYPE", 10008: "JUKEBOX",
}
_ACCEPT = {1: "PROG_UNAVAIL", 2: "PROG_MISMATCH", 3: "PROC_UNAVAIL", 4: "GARBAGE_ARGS", 5: "SYSTEM_ERR"}
_AUTH = {1: "BADCRED", 2: "REJECTEDCRED", 3: "BADVERF", 4: "REJECTEDVERF", 5: "TOOWEAK"}


def text(name: bytes) -> str:
    """A name that some client chose, for a terminal: what does not print is escaped."""
    shown = name.decode("utf-8", "backslashreplace")
    return shown if shown.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


# ---- kinds: what is read, and what is shown of it (None: nothing)

def _handle(u: Unpacker) -> Value:
    return u.unpack_opaque(_HANDLE).hex()


def _handle2(u: Unpacker) -> Value:
    return u.unpack_fopaque(32).hex()


def _one_of(words: tuple[str, ...]) -> Callable[[Unpacker], Value]:
    def kind(u: Unpacker) -> Value:
        number = u.unpack_uint()
        return words[number] if number < len(words) else number
    return kind


def _access(u: Unpacker) -> Value:
    bits = u.unpack_uint()
    return ",".join(word for i, word in enumerate(_RIGHTS) if bits >> i & 1) or "-"


def _attributes(u: Unpacker) -> Value:
    """fattr3: as `ls -l` begins, and the size."""
    kind, mode, links, uid, gid = (u.unpack_uint() for _ in range(5))
    size = u.unpack_uhyper()
    u.skip(84 - 28)
    return f"{stat.filemode(_TYPES.get(kind, 0) | mode & 0o7777)} {links} {uid}:{gid} {size}"


def _post(u: Unpacker) -> None:
    if u.unpack_bool():
        u.skip(84)


def _wcc(u: Unpacker) -> None:
    if u.unpack_bool():
        u.skip(24)
    _post(u)


def _settings(u: Unpacker) -> Value:
    """sattr3: what is set."""
    words = [f"{key} {u.unpack_uint():{form}}" for key, form in (("mode", "04o"), ("uid", "d"), ("gid", "d")) if u.unpack_bool()]
    if u.unpack_bool():
        words.append(f"size {u.unpack_uhyper()}")
    for key in ("atime", "mtime"):
        how = u.unpack_uint()
        if how == 2:
            words.append(f"{key} {u.unpack_uint()}.{u.unpack_uint():09}")
        elif how:
            words.append(f"{key} now")
    return " ".join(words) or "nothing"


def _how(u: Unpacker) -> Value:
    """createhow3"""
    how = u.unpack_uint()
    if how == 2:
        return "EXCLUSIVE"
    return f"{_HOW[how] if how < 2 else how} {_settings(u)}"


_KINDS: dict[str, Callable[[Unpacker], Value | None]] = {
    "fh": _handle, "fh2": _handle2,
    "name": lambda u: text(u.unpack_string(_NAME)), "path": lambda u: text(u.unpack_string(_LINK)),
    "u32": Unpacker.unpack_uint, "u64": Unpacker.unpack_uhyper, "bool": Unpacker.unpack_bool, "verf": lambda u: u.skip(8),
    "access": _access, "attributes": _attributes, "post": _post, "wcc": _wcc, "settings": _settings, "how": _how,
    "stable": _one_of(_STABLE), "type": _one_of(("", "REG", "DIR", "BLK", "CHR", "LNK", "SOCK", "FIFO")),
}


@dataclass(frozen=True, slots=True)
class Procedure:
    name: str
    args: str = ""
    results: str | None = ""     # None: they do not begin with a status


_NFS3 = (
    Procedure("NULL", "", None),
    Procedure("GETATTR", "fh", "attributes:attributes"),
    Procedure("SETATTR", "fh set:settings"),
    Procedure("LOOKUP", "fh name", "to:fh"),
    Procedure("ACCESS", "fh want:access", "post may:access"),
    Procedure("READLINK", "fh", "post to:path"),
    Procedure("READ", "fh offset:u64 count:u32", "post count:u32 eof:bool"),
    Procedure("WRITE", "fh offset:u64 count:u32 stable:stable", "wcc count:u32 stable:stable"),
    Procedure("CREATE", "fh name how:how"),
    Procedure("MKDIR", "fh name set:settings"),
    Procedure("SYMLINK", "fh name set:settings to:path"),
    Procedure("MKNOD", "fh name type:type set:settings"),
    Procedure("REMOVE", "fh name"),
    Procedure("RMDIR", "fh name"),
    Procedure("RENAME", "fh name to_fh:fh to:name"),
    Procedure("LINK", "fh to_fh:fh to:name"),
    Procedure("READDIR", "fh cookie:u64 verf count:u32"),
    Procedure("READDIRPLUS", "fh cookie:u64 verf dircount:u32 maxcount:u32"),
    Procedure("FSSTAT", "fh", "post total:u64 free:u64 available:u64"),
    Procedure("FSINFO", "fh", "post rtmax:u32 u32 u32 wtmax:u32 u32 u32 dtpref:u32"),
    Procedure("PATHCONF", "fh", "post linkmax:u32 name_max:u32"),
    Procedure("COMMIT", "fh offset:u64 count:u32"),
)
_NFS2 = (
    Procedure("NULL", "", None),
    Procedure("GETATTR", "fh:fh2"),
    Procedure("SETATTR", "fh:fh2"),
    Procedure("ROOT", "", None),
    Procedure("LOOKUP", "fh:fh2 name", "to:fh2"),
    Procedure("READLINK", "fh:fh2", "to:path"),
    Procedure("READ", "fh:fh2 offset:u32 count:u32"),
    Procedure("WRITECACHE", "", None),
    Procedure("WRITE", "fh:fh2 u32 offset:u32 u32 count:u32"),
    Procedure("CREATE", "fh:fh2 name"),
    Procedure("REMOVE", "fh:fh2 name"),
    Procedure("RENAME", "fh:fh2 name to_fh:fh2 to:name"),
    Procedure("LINK", "fh:fh2 to_fh:fh2 to:name"),
    Procedure("SYMLINK", "fh:fh2 name to:path"),
    Procedure("MKDIR", "fh:fh2 name"),
    Procedure("RMDIR", "fh:fh2 name"),
    Procedure("READDIR", "fh:fh2 cookie:u32 count:u32"),
    Procedure("STATFS", "fh:fh2"),
)
_MOUNT = (Procedure("NULL", "", None), Procedure("MNT", "dir:path"), Procedure("DUMP", "", None),
          Procedure("UMNT", "dir:path", None), Procedure("UMNTALL", "", None), Procedure("EXPORT", "", None))
_ACL3 = (Procedure("NULL", "", None), Procedure("GETACL", "fh mask:u32"), Procedure("SETACL", "fh mask:u32"))
_ACL2 = (Procedure("NULL", "", None), Procedure("GETACL", "fh:fh2 mask:u32"), Procedure("SETACL", "fh:fh2 mask:u32"),
         Procedure("GETATTR", "fh:fh2"), Procedure("ACCESS", "fh:fh2 want:access"))
_PROGRAMS: dict[tuple[int, int], tuple[str, tuple[Procedure, ...]]] = {
    (100003, 3): ("nfs", _NFS3), (100003, 2): ("nfs", _NFS2), (100227, 3): ("nfs_acl", _ACL3), (100227, 2): ("nfs_acl", _ACL2),
    **{(100005, version): ("mount", _MOUNT) for version in (1, 2, 3)},
}


@dataclass(slots=True)
class Words:
    """uid, gid: as the client sent them; None: it sent none, or they were cut off.  status "-": no reply."""

    xid: int = 0
    program: str = ""
    version: int = 0
    procedure: str = ""
    uid: int | None = None
    gid: int | None = None
    args: Values = field(default_factory=dict)
    status: str = "-"
    results: Values = field(default_factory=dict)


def words_of(call: bytes, reply: bytes | None) -> Words:
    """The words of a call message and of its reply (None: it was not answered), either may be cut."""
    w = Words()
    procedure = Procedure("?", "", None)
    try:
        u = Unpacker(call)
        w.xid, _, _, program, w.version, number = (u.unpack_uint() for _ in range(6))
        w.program, table = _PROGRAMS.get((program, w.version), (str(program), ()))
        procedure = table[number] if number < len(table) else Procedure(str(number), "", None)
        w.procedure = procedure.name
        _credential(u, w)
        u.skip(4)
        u.unpack_opaque(400)
        _decode(u, procedure.args, w.args)
    except XdrError:  # cut, or nonsense: what was read is shown
        pass
    if reply is not None:
        _reply(reply, procedure, w)
    return w


def _credential(u: Unpacker, w: Words) -> None:
    flavor, body = u.unpack_uint(), u.unpack_opaque(400)
    if flavor == 1:
        c = Unpacker(body)
        c.unpack_uint()
        c.unpack_opaque(255)
        w.uid, w.gid = c.unpack_uint(), c.unpack_uint()


def _reply(reply: bytes, procedure: Procedure, w: Words) -> None:
    try:
        u = Unpacker(reply)
        u.skip(8)
        if u.unpack_uint():  # MSG_DENIED
            w.status = f"AUTH_{_AUTH.get(u.unpack_uint(), 'ERROR')}" if u.unpack_uint() else "RPC_MISMATCH"
            return
        u.skip(4)
        u.unpack_opaque(400)
        accept = u.unpack_uint()
        status = u.unpack_uint() if not accept and procedure.results is not None else 0
        w.status = _ACCEPT.get(accept, str(accept)) if accept else STATUS.get(status, str(status))
        if not accept and not status:
            _decode(u, procedure.results or "", w.results)
    except XdrError:  # as above
        pass


def _decode(u: Unpacker, words: str, values: Values) -> None:
    for word in words.split():
        key, colon, kind = word.rpartition(":")
        value = _KINDS[kind](u)
        if value is not None and (colon or kind in ("fh", "name")):
            values[key or kind] = value
