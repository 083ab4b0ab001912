"""The one data model behind both dialects of exports(5).

Duty: records only.  `exports_linux` and `exports_bsd` make them from text, `table` makes nfssvc records of them, `convert` writes
them out again, `lint` looks them over.  Nothing here or in the parsers looks a name up or touches a file.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

from nfssvc_shim.flags import Ex, Nx

MAX_FILE = 16 << 20       # bytes of one exports file: 100,000 exports of 160 bytes
MAX_LINE = 256 << 10      # characters of one logical line: 10,000 clients
MAX_PATH = 1024           # MNTPATHLEN of RFC 1813: a longer one can never be mounted
MAX_NAME = 253            # a host name, RFC 1035
MAX_CRED_GROUPS = 16      # groups of -maproot and -mapall: NGROUPS of AUTH_SYS
MAX_PASSWORD = 64         # unfsd(8)

NO_EX, NO_NX = Ex(0), Nx(0)

AUTH_NONE, AUTH_SYS, AUTH_KRB5, AUTH_KRB5I, AUTH_KRB5P = 0, 1, 390003, 390004, 390005
FLAVORS = {"none": AUTH_NONE, "null": AUTH_NONE, "sys": AUTH_SYS, "unix": AUTH_SYS,
           "krb5": AUTH_KRB5, "krb5i": AUTH_KRB5I, "krb5p": AUTH_KRB5P}
FLAVOR_NAMES = {AUTH_NONE: "none", AUTH_SYS: "sys", AUTH_KRB5: "krb5", AUTH_KRB5I: "krb5i", AUTH_KRB5P: "krb5p"}


class Dialect(Enum):
    LINUX = "linux"
    BSD = "bsd"


class Kind(IntEnum):
    """What a client is; among entries of the same mask the smaller kind wins."""

    HOST = 0              # name or address
    NETWORK = 1
    WILDCARD = 2
    NETGROUP = 3
    GROUP_OR_HOST = 4     # a bare word of the BSD dialect: a netgroup, else a host name
    WORLD = 5


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place in a file; line and column count from 1, columns in characters."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error or warning: what is wrong at `where`, and what was expected there ("" when that is plain)."""

    where: Where
    what: str
    expected: str = ""
    error: bool = True

    def __str__(self) -> str:
        tail = f" (expected {self.expected})" if self.expected else ""
        return f"{self.where}: {'error' if self.error else 'warning'}: {self.what}{tail}"


@dataclass(frozen=True, slots=True)
class CredSpec:
    """A user of -maproot or -mapall as written.  groups None: all groups of the account; (): none."""

    user: str
    groups: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.user if self.groups is None else ":".join((self.user, *self.groups)) + ("" if self.groups else ":")


@dataclass(frozen=True, slots=True)
class Options:
    """Rights of one client in one export.  The defaults are those of the Linux dialect.

    squash_root, squash_all   who is mapped; to `root` or `everyone`, or where that is None to anonuid:anongid
    anonuid, anongid          None: the user nobody of this machine
    secure, secure_mount      NFS and MOUNT calls must come from a source port below 1024
    flavors                   as listed, best first
    deny                      why nobody gets in by this entry ("" : somebody may)
    mountpoint                None: no matter; b"": the export must be a mount point; else that path must be one
    """

    readonly: bool = True
    secure: bool = True
    secure_mount: bool = True
    squash_root: bool = True
    squash_all: bool = False
    root: CredSpec | None = None
    everyone: CredSpec | None = None
    anonuid: int | None = None
    anongid: int | None = None
    flavors: tuple[int, ...] = (AUTH_SYS,)
    ex: Ex = NO_EX
    nx: Nx = NO_NX
    mountpoint: bytes | None = None
    fsid: bytes = b""
    fspath: bytes = b""
    fsuuid: str = ""
    password: bytes = b""
    index: bytes = b""
    deny: str = ""
    quiet: bool = False


BSD_DEFAULTS = Options(readonly=False, secure=False)


@dataclass(frozen=True, slots=True)
class Client:
    """One client of one export.

    name     host name, netgroup, pattern, or network of networks(5); "" for addresses, other networks and the world
    network  packed address of a HOST given by address or of a NETWORK, with its prefix length (of a named network 0: that of its
             number); scope: interface of fe80::%if
    text     as written, for messages and for showmount -e
    """

    kind: Kind
    text: str
    where: Where
    options: Options
    name: str = ""
    network: bytes = b""
    prefix: int = 0
    scope: str = ""

    def at(self, where: Where) -> "Client":
        """The same client at another place."""
        return Client(self.kind, self.text, where, self.options, self.name, self.network, self.prefix, self.scope)

    @property
    def key(self) -> tuple[Kind, str, bytes, int, str]:
        """Equal for two entries that mean the same client."""
        return self.kind, self.name.lower(), self.network, self.prefix, self.scope


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory with its clients, from one line."""

    path: bytes
    where: Where
    clients: tuple[Client, ...]
    dialect: Dialect
    alldirs: bool = True      # directories below may be mounted


@dataclass(slots=True)
class Parsed:
    """What a parser returns.  With an error in `diagnostics` the entries must not be put in force."""

    entries: list[Entry] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if d.error]

    @property
    def warnings(self) -> list[Diagnostic]:
        return [d for d in self.diagnostics if not d.error]

    def error(self, where: Where, what: str, expected: str = "") -> None:
        self.diagnostics.append(Diagnostic(where, what, expected))

    def warn(self, where: Where, what: str, expected: str = "") -> None:
        self.diagnostics.append(Diagnostic(where, what, expected, error=False))

    def extend(self, other: "Parsed") -> None:
        self.entries += other.entries
        self.diagnostics += other.diagnostics


class Wrong(Exception):
    """A parser's own signal: the rest of this line cannot be read.  Never leaves the parsers."""

    def __init__(self, where: Where, what: str, expected: str = "") -> None:
        super().__init__(what)
        self.diagnostic = Diagnostic(where, what, expected)


def printable(text: str | bytes) -> str:
    """`text` on one line of ASCII-safe characters: blanks stay, everything that could end or colour a line is escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else _escape(c) for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\{code - 0xDC00:03o}"
    return f"\\{code:03o}" if code < 0x100 else f"\\u{code:04x}"


__all__ = ["BSD_DEFAULTS", "Client", "CredSpec", "Diagnostic", "Dialect", "Entry", "Kind", "Options", "Parsed", "Where", "Wrong",
           "printable", "replace"]
