"""Questions to the name service and the answers so far.

Duty: which names a set of exports entries needs (`questions`), and a cache of answers with when to ask again.  The asking is done
by another process (`resolver`); nothing here waits.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from .exports_model import CredSpec, Entry, Kind

REFRESH_S = 600.0         # good answers are asked for again: getaddrinfo(3) tells no TTL; most are 5 to 60 minutes
RETRY_FIRST_S = 10.0      # names that did not resolve: 10 s, then doubled up to 10 min, as macOS
RETRY_MOST_S = 600.0
STALE_S = 86_400.0        # a good answer is used so long while no new one comes: a day of trouble with DNS
MAX_ANSWERS = 65_536      # cached answers


class Ask(Enum):
    HOST = "host"                    # addresses of a host name
    NETGROUP = "netgroup"            # addresses of a netgroup's hosts
    GROUP_OR_HOST = "group_or_host"  # the first of the two that exists
    REVERSE = "reverse"              # names of an address that also resolve to it
    NETWORK = "network"              # number of a network, networks(5)
    USER = "user"                    # "uid gid gid gid ..." of `user` or `user:group:...`


@dataclass(frozen=True, slots=True)
class Question:
    ask: Ask
    name: str


Answers = Mapping[Question, tuple[str, ...]]

NOBODY = Question(Ask.USER, "nobody")
_ASK_OF = {Kind.HOST: Ask.HOST, Kind.NETGROUP: Ask.NETGROUP, Kind.GROUP_OR_HOST: Ask.GROUP_OR_HOST,
           Kind.NETWORK: Ask.NETWORK}


def questions(entries: Iterable[Entry]) -> set[Question]:
    """All that a table of `entries` needs to know."""
    asked = {NOBODY}
    for entry in entries:
        for client in entry.clients:
            if client.name and client.kind in _ASK_OF:
                asked.add(Question(_ASK_OF[client.kind], client.name))
            for spec in (client.options.root, client.options.everyone):
                if spec is not None:
                    asked.add(user_question(spec))
    return asked


def user_question(spec: CredSpec) -> Question:
    return Question(Ask.USER, str(spec))


@dataclass(slots=True)
class _State:
    answer: tuple[str, ...] | None = None
    good_s: float = 0.0
    next_s: float = 0.0
    delay_s: float = RETRY_FIRST_S


@dataclass(slots=True)
class NameCache:
    """Answers by question.

    A good answer is kept when later ones do not come (a DNS server that stops must not unmount anybody), for STALE_S at the most;
    it goes at once when the name service says that there is no such name.
    """

    _states: dict[Question, _State] = field(default_factory=dict)

    def due(self, wanted: Iterable[Question], now_s: float) -> list[Question]:
        """Those of `wanted` that should be asked now; each is given out once until answered() or its delay."""
        found = []
        for question in wanted:
            state = self._states.setdefault(question, _State())
            if state.next_s <= now_s:
                state.next_s = now_s + RETRY_FIRST_S
                found.append(question)
        return found

    def answered(self, question: Question, answer: tuple[str, ...], now_s: float, *, definite: bool = False) -> bool:
        """Notes an answer; () is a failure, `definite` says that there is no such name.  Returns whether the table changes."""
        state = self._states.setdefault(question, _State())
        before = state.answer or ()
        if answer:
            state.answer, state.good_s = answer, now_s
            state.delay_s, state.next_s = RETRY_FIRST_S, now_s + REFRESH_S
        else:
            state.answer = () if definite or now_s - state.good_s > STALE_S else before
            state.next_s = now_s + state.delay_s
            state.delay_s = min(state.delay_s * 2, RETRY_MOST_S)
        return state.answer != before

    def ask_again(self) -> None:
        """All are due now: the administrator said HUP."""
        for state in self._states.values():
            state.next_s = 0.0

    def addresses(self) -> list[Question]:
        """The questions about addresses that have an answer: they are refreshed as names are."""
        return [q for q, s in self._states.items() if q.ask is Ask.REVERSE and s.answer]

    def unanswered(self, wanted: Iterable[Question]) -> list[Question]:
        """Those that nobody has answered yet, not even with a failure."""
        return [q for q in wanted if q not in self._states or self._states[q].answer is None]

    def answers(self) -> dict[Question, tuple[str, ...]]:
        return {q: s.answer for q, s in self._states.items() if s.answer}

    def forget(self, keep: Iterable[Question]) -> None:
        """Drops what is not in `keep` and is no question about an address."""
        kept = set(keep)
        for question in [q for q in self._states if q not in kept and q.ask is not Ask.REVERSE]:
            del self._states[question]

    def trim(self) -> None:
        """Makes room among the questions about addresses, which strangers cause: first those without an answer go."""
        if len(self._states) <= MAX_ANSWERS:
            return
        reverse = [(bool(s.answer), q) for q, s in self._states.items() if q.ask is Ask.REVERSE]
        for _, question in sorted(reverse, key=lambda pair: pair[0])[:len(self._states) - MAX_ANSWERS * 9 // 10]:
            del self._states[question]
