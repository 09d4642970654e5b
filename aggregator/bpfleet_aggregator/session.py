"""Who is connected: one session for each agent's spool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bpfleet.wire import Decoder

__all__ = ["Session", "Sessions"]

_TOLD = 65_536


@dataclass(slots=True, eq=False)
class Session:
    """One conversation. Some thousands are kept, so it is small."""

    peer: bytes
    """ZeroMQ's name of the connection."""
    agent: str
    spool: str
    last: int
    """The highest seq that the agent had given when it said HELLO."""
    key: str
    """The agent's public key; "" without CURVE."""
    address: str
    """The IP address that it connected from, without a port."""
    heard: float
    """When it was heard last, on the monotonic clock."""
    decoder: Decoder
    welcomed: bool = False
    taken: int = 0
    """The highest seq that was received: what is not above it is a repeat."""
    durable: int = 0
    given: int = 0
    """The highest seq that was handed over to be stored."""
    told: int = 0
    """The highest seq that was acknowledged to it."""

    def is_due(self, durable: int, credit: int) -> bool:
        """Whether to acknowledge so far: all that waited is stored, or half of what it may send.

        An ACK costs both ends more than a record.
        """
        return durable == self.given or durable - self.told > credit // 2


@dataclass(slots=True)
class Sessions:
    """The sessions, by connection and by spool."""

    by_peer: dict[bytes, Session] = field(default_factory=dict)
    _by_spool: dict[tuple[str, str], Session] = field(default_factory=dict)
    _by_agent: dict[str, list[Session]] = field(default_factory=dict)
    _told: set[bytes] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.by_peer)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self.by_peer.values()))

    @property
    def agents(self) -> int:
        """How many agents have a session."""
        return len(self._by_agent)

    def get(self, peer: bytes) -> Session | None:
        """The session on that connection."""
        return self.by_peer.get(peer)

    def is_to_be_told(self, peer: bytes) -> bool:
        """Whether a connection without a session has yet to hear of that: once is enough, and after a restart
        thousands send all that they may before they hear it."""
        if peer in self._told:
            return False
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add(peer)
        return True

    def live(self, session: Session) -> bool:
        """Whether `session` still goes on."""
        return self.by_peer.get(session.peer) is session

    def of_spool(self, agent: str, spool: str) -> Session | None:
        """The session that delivers that spool."""
        return self._by_spool.get((agent, spool))

    def of_agent(self, agent: str) -> list[Session]:
        """All sessions of one agent: one for each sink that delivers here."""
        return self._by_agent.get(agent, [])

    def add(self, session: Session) -> None:
        """Begin a session; whoever had its connection or its spool must have been dropped before."""
        self._told.discard(session.peer)
        self.by_peer[session.peer] = session
        self._by_spool[session.agent, session.spool] = session
        self._by_agent.setdefault(session.agent, []).append(session)

    def drop(self, session: Session) -> None:
        """End it; nothing is sent."""
        if not self.live(session):
            return
        del self.by_peer[session.peer]
        del self._by_spool[session.agent, session.spool]
        others = self._by_agent[session.agent]
        others.remove(session)
        if not others:
            del self._by_agent[session.agent]
