"""Clients as exports(5) writes them: host names, addresses, networks, wildcards, netgroups.

Duty: one word in, its kind and its value out, or ValueError with what is wrong and what was expected.  Strict where inet_aton(3)
is lax: `10.1`, `010.0.0.1` and `300.1.1.1` are no addresses, and a mask with holes or of length 0 is none.
"""
from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from .exports_model import MAX_NAME, Kind, printable

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!^-]+")
_DIGITS = re.compile(r"0|[1-9][0-9]{0,2}")
_ADDRESS = "four numbers up to 255 without leading zeros, or IPv6"
_NUMERIC = re.compile(r"[0-9.]+")


class BadClient(ValueError):
    """No client.  `expected` says what would have been one."""

    def __init__(self, what: str, expected: str = "") -> None:
        super().__init__(what)
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Value:
    """kind and value of a client word; `note` is a warning about it ("" for none)."""

    kind: Kind
    name: str = ""
    network: bytes = b""
    prefix: int = 0
    scope: str = ""
    note: str = ""


def linux_client(word: str) -> Value:
    """A client of the Linux dialect, without its options."""
    if word == "*":
        return Value(Kind.WORLD)
    if word.startswith("@"):
        return Value(Kind.NETGROUP, netgroup(word[1:]))
    if word.startswith("gss/"):
        raise BadClient(f"the client {printable(word)}", "a host, and the flavor as an option: sec=krb5")
    if "/" in word:
        address, _, mask = word.partition("/")
        return network(address, mask)
    if re.search(r"[*?\[\]]", word):
        return Value(Kind.WILDCARD, wildcard(word))
    return host(word)


def host(word: str) -> Value:
    """A host name or an address."""
    if ":" in word or _NUMERIC.fullmatch(word):
        packed, scope = address(word)
        return Value(Kind.HOST, network=packed, prefix=len(packed) * 8, scope=scope)
    return Value(Kind.HOST, hostname(word))


def hostname(word: str) -> str:
    if len(word) > MAX_NAME or not _NAME.fullmatch(word) or _NUMERIC.fullmatch(word.rpartition(".")[2] or "x"):
        raise BadClient(f"{printable(word[:80])} is no client", "a host name, an address, a network, @netgroup or *")
    return word.rstrip(".")


def netgroup(word: str) -> str:
    if not _GROUP.fullmatch(word):
        raise BadClient(f"@{printable(word[:80])} is no netgroup", "letters, digits, '.', '_' and '-'")
    return word


def wildcard(word: str) -> str:
    """A pattern of host names.  Patterns of addresses are refused: they would match names, not addresses."""
    if len(word) > MAX_NAME or not _PATTERN.fullmatch(word) or re.search(r"\[[^\]]*(\[|$)", word):
        raise BadClient(f"{printable(word[:80])} is no pattern of host names", "*, ? and [...] in a host name")
    if not re.search(r"[A-Za-z]", word):
        raise BadClient(f"{word} has wildcards but no letter", _network_meant(word))
    return word


def _network_meant(word: str) -> str:
    """What `10.1.*` or `10.1.*.*` is meant to say."""
    if re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}(\.\*){1,3}", word):
        numbers = word.replace(".*", "").split(".")
        return f"{'.'.join((numbers + ['0'] * 3)[:4])}/{8 * len(numbers)}"
    return "an address with a prefix length, as in 192.0.2.0/24, or * alone"


def address(word: str) -> tuple[bytes, str]:
    """Packed address and scope; v4-mapped addresses are unwrapped.  Raises BadClient for what only inet_aton(3) would take."""
    text, _, scope = word.partition("%")
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise BadClient(f"{printable(word[:80])} is no address", _ADDRESS) from None
    if scope and (parsed.version == 4 or not parsed.is_link_local or not re.fullmatch(r"[A-Za-z0-9._@-]{1,15}", scope)):
        raise BadClient(f"{printable(word[:80])}: a scope on this address", "an interface after a link-local address")
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    if parsed.is_unspecified or parsed.is_multicast:
        raise BadClient(f"{word} is no client's address", "the address of one host")
    return parsed.packed, scope


def network(address_text: str, mask: str) -> Value:
    """address/length or address/mask.  Bits beyond the mask are cleared, with a note."""
    text, _, scope = address_text.partition("%")
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise BadClient(f"{printable(address_text[:80])} is no network address", _ADDRESS) from None
    packed = parsed.packed
    return masked(packed, prefix_length(mask, len(packed) * 8), scope)


def masked(packed: bytes, prefix: int, scope: str = "") -> Value:
    bits = len(packed) * 8
    number = int.from_bytes(packed, "big")
    kept = number >> (bits - prefix) << (bits - prefix)
    clean = kept.to_bytes(len(packed), "big")
    note = "" if kept == number else f"bits beyond the mask; taken as {ipaddress.ip_address(clean)}/{prefix}"
    if bits == 128 and prefix >= 96 and clean.startswith(b"\0" * 10 + b"\xff\xff"):
        clean, prefix = clean[12:], prefix - 96
        if not prefix:
            raise BadClient("a network of all addresses", "* (Linux) or no client at all (BSD) for everyone")
    kind = Kind.HOST if prefix == len(clean) * 8 else Kind.NETWORK
    return Value(kind, network=clean, prefix=prefix, scope=scope, note=note)


def prefix_length(mask: str, bits: int) -> int:
    """Length of "24", "255.255.255.0" or an IPv6 mask.  0 is refused: everyone is written *."""
    length = int(mask) if _DIGITS.fullmatch(mask) else _mask_length(mask, bits)
    if length > bits:
        raise BadClient(f"a prefix of {length} bits", f"1 to {bits}")
    if length == 0:
        raise BadClient("a network of all addresses", "* (Linux) or no client at all (BSD) for everyone")
    return length


def _mask_length(mask: str, bits: int) -> int:
    try:
        packed = ipaddress.ip_address(mask).packed
    except ValueError:
        raise BadClient(f"{printable(mask[:80]) or 'nothing'} is no mask", f"1 to {bits}, or a mask like 255.255.255.0") from None
    if len(packed) * 8 != bits:
        raise BadClient(f"the mask {mask} and its address are of two families", f"1 to {bits}")
    ones = int.from_bytes(packed, "big")
    length = ones.bit_count()
    if ones != ((1 << length) - 1) << (bits - length):
        raise BadClient(f"the mask {mask} has holes", "ones, then zeros")
    return length


def classful(word: str) -> tuple[bytes, int]:
    """A network number of the BSD dialect, padded on the right, with the mask of its class: 198.51.100 is 198.51.100.0/24."""
    parts = word.split(".")
    if not 1 <= len(parts) <= 4 or not all(_DIGITS.fullmatch(part) and int(part) < 256 for part in parts):
        raise BadClient(f"{printable(word[:80])} is no network", "one to four numbers up to 255, or an IPv6 address")
    packed = bytes(int(part) for part in parts) + b"\0" * (4 - len(parts))
    if packed == b"\0\0\0\0":
        raise BadClient("a network of all addresses", "no client at all for everyone")
    first = packed[0]
    if first >= 224:
        raise BadClient(f"{word} is no network of hosts", "a network below 224.0.0.0")
    return packed, 8 if first < 128 else 16 if first < 192 else 24


def significant(packed: bytes) -> int:
    """The shortest mask that keeps every byte of the network number that is not 0."""
    return len(packed.rstrip(b"\0")) * 8
