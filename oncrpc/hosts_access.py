"""hosts_access(5): /etc/hosts.allow and /etc/hosts.deny, for daemons that serve strangers (mountd, portmap).

Duty: (daemon, address) -> may it?  No name is ever looked up: patterns of host names can neither be said to match nor not to
match.  Three values carry that through: yes, no, and not known.  hosts.allow grants only by a yes; hosts.deny refuses by a yes
and by a not known; so nobody passes because of a name, of a line that cannot be read, or of a file that cannot be read.  A file
that is not there is empty, and whom neither file names passes, as hosts_access(5) says.

Not served: shell commands (never run), user@host, %-expansion.  Options `allow`, `deny`, `severity` of hosts_options(5) are.
"""
from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_FILE = 1 << 20        # bytes of a file; longer ones count as unreadable
MAX_DEPTH = 8             # EXCEPT ... EXCEPT ...

YES, NO, MAYBE = True, False, None
Verdict = bool | None
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Rule:
    """One line.  broken: it could not be read, and may have meant anybody."""

    daemons: tuple[str, ...]
    clients: tuple[str, ...]
    allow: bool
    broken: bool = False


class HostsAccess:
    """The two files of one directory, read again whenever they change."""

    def __init__(self, directory: str | os.PathLike[str] = "/etc") -> None:
        self._allow = _File(Path(directory) / "hosts.allow", allow=True)
        self._deny = _File(Path(directory) / "hosts.deny", allow=False)

    def allows(self, daemon: str, address: str) -> bool:
        """Whether `address` (text, without port; "" is a unix socket) may talk to `daemon`."""
        if not address:
            return True
        client = ipaddress.ip_address(address.partition("%")[0])
        mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
        client = mapped or client
        for file in (self._allow, self._deny):
            for rule in file.rules():
                decided = _decide(rule, daemon, client)
                if decided is not None:
                    return decided
        return True


def _decide(rule: Rule, daemon: str, client: IpAddress) -> bool | None:
    """True: this line lets the client in; False: it keeps it out; None: it says nothing."""
    if rule.broken:
        return None if rule.allow else False
    matches = _and(_list(rule.daemons, lambda p: _daemon(p, daemon)), _list(rule.clients, lambda p: _client(p, client)))
    if rule.allow:
        return True if matches is YES else None
    return None if matches is NO else False


class _File:
    def __init__(self, path: Path, *, allow: bool) -> None:
        self.path, self.allow = path, allow
        self._stamp: tuple[int, ...] | None = None
        self._rules: list[Rule] = []

    def rules(self) -> list[Rule]:
        try:
            info = os.stat(self.path)
        except FileNotFoundError:
            self._stamp, self._rules = None, []
            return self._rules
        except OSError:
            return [_broken(self.allow)]
        stamp = (info.st_ino, info.st_dev, info.st_mtime_ns, info.st_ctime_ns, info.st_size)
        if stamp != self._stamp:
            self._stamp, self._rules = stamp, self._read()
        return self._rules

    def _read(self) -> list[Rule]:
        try:
            with self.path.open("rb") as stream:
                data = stream.read(MAX_FILE + 1)
        except OSError:
            return [_broken(self.allow)]
        return [_broken(self.allow)] if len(data) > MAX_FILE else parse(data, allow=self.allow)


def parse(data: bytes, *, allow: bool) -> list[Rule]:
    """The rules of a file; `allow`: it is hosts.allow."""
    text = data.decode("utf-8", "replace").replace("\\\n", "")
    return [_rule(line, allow) for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _rule(line: str, allow: bool) -> Rule:
    fields = _fields(line)
    if len(fields) < 2 or "\0" in line:
        return _broken(allow)
    daemons, clients = tuple(_words(fields[0])), tuple(_words(fields[1]))
    for option in (field.strip() for field in fields[2:]):
        word = option.split()[0].lower() if option else ""
        if word in ("allow", "deny"):
            allow = word == "allow"
        elif word != "severity":
            return _broken(allow)
    if not _well_formed(daemons) or not _well_formed(clients) or not all(map(_is_pattern, clients)):
        return _broken(allow)
    return Rule(daemons, clients, allow)


def _broken(allow: bool) -> Rule:
    return Rule((), (), allow, broken=True)


def _fields(line: str) -> list[str]:
    """Fields between colons; those inside [ ] belong to IPv6 addresses."""
    return re.split(r":(?![^\[\]]*\])", line)


def _words(field: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", field) if word]


def _well_formed(words: Sequence[str]) -> bool:
    """Not empty, and a list on each side of each EXCEPT."""
    if words.count("EXCEPT") > MAX_DEPTH:
        return False
    previous = "EXCEPT"
    for word in (*words, "EXCEPT"):
        if word == "EXCEPT" == previous:
            return False
        previous = word
    return True


def _list(words: Sequence[str], match: Callable[[str], Verdict]) -> Verdict:
    """list EXCEPT list EXCEPT list: a EXCEPT (b EXCEPT c)."""
    if "EXCEPT" in words:
        at = list(words).index("EXCEPT")
        return _and(_list(words[:at], match), _not(_list(words[at + 1:], match)))
    verdict: Verdict = NO
    for word in words:
        one = match(word)
        if one is YES:
            return YES
        if one is MAYBE:
            verdict = MAYBE
    return verdict


def _and(a: Verdict, b: Verdict) -> Verdict:
    if a is NO or b is NO:
        return NO
    return YES if a is YES and b is YES else MAYBE


def _not(a: Verdict) -> Verdict:
    return MAYBE if a is MAYBE else not a


def _daemon(pattern: str, daemon: str) -> Verdict:
    name = pattern.partition("@")[0]
    if "@" in pattern:  # daemon@address of ours: which of our addresses was asked is not looked at
        return MAYBE if name in (daemon, "ALL") else NO
    return name in ("ALL", daemon) or (name == "rpcbind" and daemon == "portmap")


def _client(pattern: str, client: IpAddress) -> Verdict:
    if pattern == "ALL":
        return YES
    network = _network(pattern)
    if network is not None:
        return client in network
    if re.fullmatch(r"([0-9]{1,3}\.){1,3}", pattern):
        return client.version == 4 and f"{client}.".startswith(pattern)
    if re.fullmatch(r"[0-9.*?]+", pattern):
        return client.version == 4 and fnmatch.fnmatchcase(str(client), pattern)
    return MAYBE  # a host name, a domain, a netgroup, LOCAL, KNOWN, UNKNOWN, PARANOID


def _is_pattern(word: str) -> bool:
    """What cannot be meant as a client: addresses out of range, masks with holes, brackets that are open, commands, files."""
    if word in ("ALL", "EXCEPT", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID") or _network(word) is not None:
        return True
    if re.fullmatch(r"([0-9]{1,3}\.){1,3}", word):
        return all(int(part) < 256 for part in word.split(".") if part)
    return bool(re.fullmatch(r"[0-9.*?]*[*?][0-9.*?]*|@?[A-Za-z0-9._*?-]*[A-Za-z][A-Za-z0-9._*?-]*", word))


def _network(word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """192.0.2.1, 192.0.2.0/24, 192.0.2.0/255.255.255.0, [2001:db8::1], [2001:db8::]/32, [2001:db8::/32]; None: none of these."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)(?:/([0-9]+))?\](?:/([0-9]+))?", word)
    text = word
    if match:
        text = match.group(1) + "/" + (match.group(2) or match.group(3) or "128")
    elif not re.fullmatch(r"[0-9.]+(/[0-9.]+)?", word):
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mask = text.partition("/")[2]
    if "." in mask and int(ipaddress.ip_address(mask)) != int(network.netmask):
        return None  # a host mask, which ip_network takes too
    return network
