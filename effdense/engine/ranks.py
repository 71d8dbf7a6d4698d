"""Which of several processes has failed, hung or gone; of what all of them meet, one speaks.

Every process writes to the group's store, every two seconds and from a thread of its own, where its main thread is. One
that is let down by the others (a collective that times out, a connection that breaks) reads there who did not arrive.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from effdense.errors import EffdenseError, RunError

GRACE = 5.0  # seconds that a process waits for the others' words before it speaks of them
_GLOO_OR_NCCL = re.compile(
    r"\bgloo/|\bNCCL\b|Connection (closed|reset) by peer|Application timeout caused pair closure"
)
_POINTER = re.compile(r"^(rank|process) \d+ ")  # says already whose error it is
_STANDARD_LIBRARY, _TORCH = os.path.dirname(os.__file__), os.path.dirname(torch.__file__)


@dataclass
class _Place:
    """Where the main thread is: hooks called, what it is at, since when (monotonic seconds)."""

    moves: int = 0
    words: str = "before training"
    since: float = 0.0


class Board:
    """What processes of a group tell each other outside of collectives.

    Args:
        store: of the group, a client of this object's own. rank, world: of this process.
        timeout: seconds after which a collective fails. speaks_before: say it shortly before that: NCCL's watchdog ends
            the process without a word about the others.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout: float, *, speaks_before: bool = False) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self._store, self._speaks_before = store, speaks_before
        self._place = _Place(since=time.monotonic())
        self._beats = 0
        self._ended = threading.Event()
        self._interval = min(2.0, timeout / 20)
        self._thread = threading.Thread(target=self._watch, name="effdense-ranks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that is in a store's call while the interpreter ends could abort it."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    def moved(self, words: str, *, counts: bool = True) -> None:
        """The main thread has come to a new place; ``counts`` where every process passes it."""
        self._place = _Place(self._place.moves + counts, words, time.monotonic())

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        said = False
        try:
            while True:
                self._write()
                waited = time.monotonic() - self._place.since
                if self._speaks_before and not said and waited > 0.9 * self.timeout:
                    said = True
                    mine = self._read(self.rank)
                    late = [r for r in range(self.world) if self._read(r).get("moves", -1) < mine["moves"]]
                    places = "; ".join(self._describe(r, None) for r in (late or range(self.world))[:16])
                    print(f"rank {self.rank} has not moved for {waited:.0f} s. {places}", file=sys.stderr, flush=True)
                if self._ended.wait(self._interval):
                    return
        except RuntimeError:  # the store has gone, and with it the group
            return

    def _write(self) -> None:
        place, self._beats = self._place, self._beats + 1
        entry = {
            "beat": self._beats,
            "moves": place.moves,
            "words": place.words,
            "for": round(time.monotonic() - place.since, 1),
            "at": _main_thread_at(),
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        self._store.set(f"place/{self.rank}", json.dumps(entry))

    def _read(self, rank: int) -> dict[str, Any]:
        key = f"place/{rank}"
        return dict(json.loads(self._store.get(key))) if self._store.check([key]) else {}

    # -- errors --------------------------------------------------------------------------------------------------------

    def is_first_to_say(self, text: str) -> bool:
        """Whether no other process has said this."""
        key = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return int(self._store.add(f"said/{key}", 1)) == 1

    def declare(self, text: str) -> None:
        """This process ends by an error of its own; the first one is kept."""
        self._store.compare_set("failed", "", f"{self.rank} {text}")

    def blame(self, error: BaseException) -> tuple[str, bool]:
        """Why the others have let this process down, and whether this process is the one to say it."""
        found: list[tuple[str, bool]] = []
        # A store that hangs with the process that keeps it must not keep this one.
        asking = threading.Thread(target=self._blame, args=(str(error), found), daemon=True)
        asking.start()
        asking.join(timeout=2 * GRACE)
        if found:
            return found[0]
        local = int(os.environ.get("LOCAL_RANK", "0"))
        first_of_node = local == (1 if local == self.rank else 0)
        return "rank 0, which keeps the store of all processes, has ended or does not answer.", first_of_node

    def _blame(self, error: str, found: list[tuple[str, bool]]) -> None:
        try:
            self._store.set(f"gave_up/{self.rank}", "1")
            others = [r for r in range(self.world) if r != self.rank]
            before = {r: self._read(r).get("beat") for r in others}
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                if self._store.check(["failed"]):
                    who, _, text = self._store.get("failed").decode().partition(" ")
                    if int(who) != self.rank:
                        found.append(
                            (f"rank {who} has failed ({text}); it says the rest.", self.is_first_to_say("lost"))
                        )
                        return
                time.sleep(0.1)
            waiting = [r for r in others if not self._store.check([f"gave_up/{r}"])]
            mine = self._place.moves
            behind = [r for r in waiting if self._read(r).get("moves", -1) < mine]
            late = behind or waiting
            if not late:
                what = "all other processes have lost their connections, too: the network between them may be down."
            else:
                head = f"no word for {self.timeout:g} s from" if "imed out" in error else "lost the connection to"
                what = f"{head} " + "; ".join(self._describe(r, before[r]) for r in late[:8])
                what += f" and {len(late) - 8} more." if len(late) > 8 else "."
            found.append((what, self.is_first_to_say("lost")))
        except RuntimeError:
            return

    def _describe(self, rank: int, beat: int | None) -> str:
        place = self._read(rank)
        if not place:
            return f"rank {rank}, which has not joined"
        head = f"rank {rank} on {place['host']} (process {place['process']})"
        seen = f"{place['words']} for {place['for']:.0f} s, at {place['at']}"
        if beat is not None and place["beat"] == beat:
            return f"{head}, whose process does not answer (killed, stopped, or its machine is lost); last seen {seen}"
        return f"{head}: {seen}"


def _main_thread_at() -> str:
    """File, line and function of the main thread, the innermost outside of torch and the standard library."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None:
        name = frame.f_code.co_filename
        library = name.startswith(_STANDARD_LIBRARY) and "site-packages" not in name
        if not library and not name.startswith((_TORCH, "<")):
            break
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "its end"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})"


_board: Board | None = None


def open_board(prefix: str, backend: str, timeout: float) -> None:
    """Begin to tell the other processes of the group that was just joined; a store of its own connection."""
    global _board
    rank, world = dist.get_rank(), dist.get_world_size()
    if world == 1:
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
    store = dist.PrefixStore(f"{prefix}/board", client)
    _board = Board(store, rank, world, timeout, speaks_before=backend != "gloo")
    atexit.register(_board.close)


def moved(words: str, *, counts: bool = True) -> None:
    """See :meth:`Board.moved`; nothing where one process runs."""
    if _board is not None:
        _board.moved(words, counts=counts)


def lost_rank(error: BaseException) -> RunError | None:
    """For an error of a collective: which other process it is about. None for errors of this process."""
    if _board is None or isinstance(error, EffdenseError) or not isinstance(error, RuntimeError):
        return None
    if not isinstance(error, (dist.DistBackendError, dist.DistNetworkError)) and not _GLOO_OR_NCCL.search(str(error)):
        return None
    text, speaks = _board.blame(error)
    explained = RunError(f"rank {_board.rank}: {text}")
    explained.said_by_another_rank = not speaks
    return explained


def let_others_speak() -> bool | None:
    """Of a signal that all processes get: whether this one keeps still; None where one process runs."""
    return None if _board is None else _board.rank > 0


def said_once_a_node(error: EffdenseError) -> None:
    """For what every process of a node meets before it has joined the others: a config, a file."""
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
    error.said_by_another_rank = int(local) > 0


@contextmanager
def one_voice() -> Iterator[None]:
    """Around all of a run: an error says whose it is; what all meet is said by one, the others end without a word."""
    try:
        yield
    except Exception as error:
        if _board is None or getattr(error, "said_by_another_rank", None) is not None:
            raise
        lost = lost_rank(error)
        if lost is not None:
            raise lost from error
        text = str(error)
        try:
            if not _POINTER.match(text):
                _board.declare(f"{type(error).__name__}: {text.splitlines()[0][:200] if text else ''}")
            speaks = _board.is_first_to_say(text)
        except RuntimeError:
            raise error from None  # the store went with the rank that keeps it
        if not speaks:
            quiet = RunError(text)
            quiet.said_by_another_rank = True
            raise quiet from error
        if isinstance(error, EffdenseError):
            said = type(error)(text if _POINTER.match(text) else f"rank {_board.rank}: {text}")
            said.said_by_another_rank = False
            raise said from error
        print(f"rank {_board.rank} on {socket.gethostname()} failed:", file=sys.stderr, flush=True)
        raise
