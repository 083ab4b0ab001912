"""enable, disable: `nfs_server_enable` in rc.conf.d/nfsd, where rc.d/nfsd reads it.  $RC_CONF_D names another directory."""
from __future__ import annotations

import os
import re
from pathlib import Path

RCVAR = "nfs_server_enable"
_LINE = re.compile(rf"^\s*{RCVAR}=.*$")
_YES = re.compile(rf"""^\s*{RCVAR}=["']?(yes|true|on|1)["']?\s*(#.*)?$""", re.IGNORECASE)


def path() -> Path:
    return Path(os.environ.get("RC_CONF_D", "/etc/rc.conf.d")) / "nfsd"


def is_enabled() -> bool:
    """The last assignment counts, as for sh(1).  Raises OSError: there is a file, and it cannot be read."""
    try:
        lines = [line for line in path().read_text(errors="surrogateescape").splitlines() if _LINE.match(line)]
    except FileNotFoundError:
        return False
    return bool(lines and _YES.match(lines[-1]))


def set_enabled(enabled: bool) -> None:
    """The file with our one line changed; a new file takes the old one's place at once.  Raises OSError."""
    target = path()
    try:
        lines = [line for line in target.read_text(errors="surrogateescape").splitlines() if not _LINE.match(line)]
    except FileNotFoundError:
        lines = []
    lines.append(f'{RCVAR}="{"YES" if enabled else "NO"}"')
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text("\n".join(lines) + "\n", errors="surrogateescape")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
