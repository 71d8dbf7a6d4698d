"""What processes tell each other outside of collectives: two boards on one store, in one process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch.distributed as dist

from effdense.engine import ranks
from effdense.engine.distributed import _attempt
from effdense.engine.ranks import Board, lost_rank, one_voice, said_once_a_node
from effdense.errors import ConfigError, DataError, EffdenseError, RunError

TIMED_OUT = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation")
CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:3012")


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Board]]:
    """Ranks 0, 1 and 2; the process speaks for rank 0."""
    monkeypatch.setattr(ranks, "GRACE", 0.3)
    store = dist.HashStore()
    made = [Board(store, rank, 3, timeout=1.0) for rank in range(3)]
    monkeypatch.setattr(ranks, "_board", made[0])
    yield made
    for board in made:
        board.close()


def wait_for_beats(boards: list[Board]) -> None:
    until = time.monotonic() + 20
    beats = [board._beats for board in boards]
    while any(board._beats < beat + 2 for board, beat in zip(boards, beats, strict=True)) and time.monotonic() < until:
        time.sleep(0.01)


def test_who_is_behind_is_named_with_its_place(boards: list[Board]) -> None:
    for board in (boards[0], boards[2]):
        board.moved("iteration 4")
        board.moved("iteration 5")
    boards[1].moved("iteration 4")
    wait_for_beats(boards)
    found = lost_rank(TIMED_OUT)
    assert isinstance(found, RunError) and found.said_by_another_rank is False
    text = str(found)
    assert text.startswith("rank 0: no word for 1 s from rank 1 on ") and "iteration 4 for 0 s, at " in text
    assert "rank 2" not in text and "does not answer" not in text and ".py:" in text


def test_a_process_that_is_gone_does_not_answer(boards: list[Board]) -> None:
    wait_for_beats(boards)
    boards[2].close()
    boards[1].moved("iteration 1")
    boards[0].moved("iteration 1")
    text = str(lost_rank(CLOSED))
    assert (
        "lost the connection to rank 2" in text and "does not answer (killed, stopped" in text and "rank 1" not in text
    )


def test_of_equals_those_who_have_not_given_up_are_named(boards: list[Board]) -> None:
    """In one and the same iteration: whoever waits in the collective has an error of its own."""
    wait_for_beats(boards)
    boards[2].blame(TIMED_OUT)
    text = str(lost_rank(TIMED_OUT))
    assert "rank 1 on " in text and "rank 2" not in text


def test_one_speaks_and_the_others_point(boards: list[Board], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 has an error of its own; of ranks 0 and 2, which lose it, one says where to look."""
    monkeypatch.setattr(ranks, "_board", boards[1])
    with pytest.raises(DataError, match=r"^rank 1: a\.jpg is empty$") as error, one_voice():
        raise DataError("a.jpg is empty")
    assert error.value.said_by_another_rank is False
    quiet = []
    for board in (boards[0], boards[2]):
        monkeypatch.setattr(ranks, "_board", board)
        with pytest.raises(RunError, match=r"rank 1 has failed \(DataError: a\.jpg is empty\)") as lost, one_voice():
            raise CLOSED
        quiet.append(lost.value.said_by_another_rank)
    assert quiet == [False, True]


def test_what_all_meet_is_said_once(
    boards: list[Board], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from effdense import cli

    for board in boards:
        monkeypatch.setattr(ranks, "_board", board)

        @one_voice()
        def verb(arguments: Any) -> None:
            raise ConfigError("num_classes is 7")

        monkeypatch.setattr(cli, "_list", verb)
        assert cli.main(["list"]) == 2
    assert capsys.readouterr().err == "ConfigError: rank 0: num_classes is 7\n"


def test_a_bug_keeps_its_traceback(boards: list[Board], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), one_voice():
        1 / 0  # noqa: B018
    assert capsys.readouterr().err.startswith("rank 0 on ")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), DataError("NCCL.jpg"), ValueError("gloo/ is odd")])
def test_errors_of_this_process_are_left_alone(boards: list[Board], error: Exception) -> None:
    assert lost_rank(error) is None


def test_a_store_that_hangs_keeps_nobody(boards: list[Board], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards[0], "_blame", lambda text, found: time.sleep(2))
    text, speaks = boards[0].blame(CLOSED)
    assert "rank 0, which keeps the store" in text and isinstance(speaks, bool)


def test_before_a_watchdog_ends_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    """NCCL's says nothing of the others."""
    store = dist.HashStore()
    other = Board(store, 1, 2, timeout=1000.0)
    mine = Board(store, 0, 2, timeout=1.0, speaks_before=True)
    mine.moved("iteration 9")
    said = ""
    until = time.monotonic() + 20
    while "has not moved" not in said and time.monotonic() < until:
        time.sleep(0.05)
        said += capfd.readouterr().err
    mine.close()
    other.close()
    assert "rank 0 has not moved for 1 s. rank 1 on " in said and "before training for " in said


def test_one_process_has_nobody_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost_rank(CLOSED) is None
    with pytest.raises(DataError, match=r"^x$"), one_voice():
        raise DataError("x")
    for local, quiet in (("0", False), ("3", True)):
        monkeypatch.setenv("LOCAL_RANK", local)
        error = EffdenseError("a key is misspelt")
        said_once_a_node(error)
        assert error.said_by_another_rank is quiet


def test_a_store_that_is_kept_over_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one node its restarts are counted; several count each their own, so that is refused before it hangs."""
    names = ("TORCHELASTIC_USE_AGENT_STORE", "GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS")
    for name in (*names, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert _attempt() == "0"
    for name, value in zip((*names, "TORCHELASTIC_RESTART_COUNT"), ("True", "1", "3", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert _attempt() == "2"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        _attempt()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert _attempt() == "0"
