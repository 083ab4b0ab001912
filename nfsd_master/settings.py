"""What the master tells its control half on the command line: one word of JSON."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """workers without lent slots; port as it was bound; user whom the control half becomes; families "4", "6" or "46"."""

    workers: int
    port: int
    server_uid: int
    master_pid: int
    families: str
    user: str
    log: str
    verbose: int
    statedir: str
    tcp: bool
    udp: bool
    register: bool
    v2: bool
    acl: bool

    def word(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, word: str) -> Settings:
        """Raises ValueError, TypeError: not what word() made."""
        return cls(**json.loads(word))
