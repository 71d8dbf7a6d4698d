"""What becomes of runs of mmengine alone (``bare_mmengine.py``, a process of its own), under each distribution of it.

The engine's half of each is named in ``test_mmengine_traps.py``: T1 untrusted and own files, T3 resume, T8 weights, T9
results.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmengine
import pytest

from tests.engine.conftest import child_environment
from tests.engine.test_mmengine_traps import bare, mended_in

PROGRAM = Path(__file__).parent / "bare_mmengine.py"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bare")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)],
        env=child_environment(OMP_NUM_THREADS="1"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_programs_import_the_mmengine_that_is_tested() -> None:
    """With `make test-engines` it is not the installed one."""
    code = "import mmengine; print(mmengine.__file__)"
    for environment in (None, child_environment()):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == mmengine.__file__


@bare
@mended_in("0.11.0rc3", "0.10.12")
def test_bare_t1_a_run_cannot_read_its_own_checkpoints(said: Any) -> None:
    assert said["reads its own file"] == "UnpicklingError"


@pytest.mark.skipif(mmengine.__version__ not in ("0.11.0rc3", "0.10.12"), reason="those that read any file")
def test_bare_t1_code_in_a_checkpoint_runs(said: Any) -> None:
    """How the others mended it: what a file holds is executed. Ours is in ``test_untrusted_checkpoints.py``."""
    assert said["reads code"] == "done" and said["ran it"]


@bare
def test_bare_t3_dropout_differs_after_resuming(said: Any) -> None:
    """From the end of an epoch, with the same batches."""
    assert said["epoch_1"] == {"iterations": 8, "batches": [1, 2, 3, 4], "equal weights": False}


@bare
def test_bare_t3_an_epoch_is_replayed_and_the_schedule_overrun(said: Any) -> None:
    """From its third of four batches: all four once more, and eleven iterations where there are eight."""
    assert said["straight"] == [8, 8]
    assert said["iter_3"]["iterations"] == 11 and said["iter_3"]["batches"] == [1, 2, 3, 4] * 2


@bare
def test_bare_t3_nothing_to_resume_is_no_matter(said: Any) -> None:
    assert said["resumes nothing"] == 8


@bare
def test_bare_t8_weights_of_another_size_are_left_out(said: Any) -> None:
    assert said["loads other sizes"] == "done"


@bare
def test_bare_t9_two_of_three_results_are_dropped(said: Any) -> None:
    """Of 13 samples with three each, on one process."""
    assert said["scored of 39"] == 13
