"""Shards of an address: served over http in a thread, fetched, verified, kept within a limit; and what fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import stat
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from effdense.data import DetectionDataset, read_image
from effdense.data.storage import shards
from effdense.data.storage.picture_cache import plan_store
from effdense.data.storage.shard_fetch import Remote, is_url
from effdense.data.storage.shard_writer import write_shards
from effdense.data.storage.sharded import check_shards, read_shards, sets_of
from effdense.errors import ConfigError, DataError, MissingExtra
from tests.data.odd_pictures import odd_records

pytest.importorskip("webdataset")


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; counts requests, and fails as it is told: file name -> list of faults to come."""

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked[name] += 1
        faults = self.server.faults.get(name) or []
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault in ("cut", "flip", "short"):
            content = bytearray(Path(self.translate_path(self.path)).read_bytes())
            content[600] ^= fault == "flip"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) // 2 if fault == "short" else len(content)))
            self.end_headers()
            self.wfile.write(content if fault == "flip" else content[: len(content) // 2])
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Served:
    def __init__(self, server: ThreadingHTTPServer, folder: Path, records) -> None:
        self.server, self.folder, self.records = server, folder, records
        self.url = f"http://127.0.0.1:{server.server_address[1]}/set"
        self.asked, self.faults = server.asked, server.faults


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr("effdense.data.storage.shard_fetch._FIRST_PAUSE", 0.001)
    monkeypatch.setenv("EFFDENSE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    records = odd_records(tmp_path / "images", copies=3)
    write_shards(records, tmp_path / "www" / "set", split="train", shard_mb=0.002, shuffle=None)
    handler = partial(Handler, directory=str(tmp_path / "www"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.faults = Counter(), {}
    Handler.translate_path = lambda self, path: str(Path(self.directory) / path.lstrip("/"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Served(server, tmp_path / "www" / "set", records)
    server.shutdown()
    server.server_close()


def pictures(records, like):
    for i in range(len(records)):
        size = tuple(like.sizes[i].tolist())
        np.testing.assert_array_equal(
            read_image(records.path(i), expected_size=size), read_image(like.path(i), expected_size=size)
        )


def test_each_shard_is_fetched_once_and_kept_for_later_runs(served):
    records, report = read_shards(served.url, "train", task="detection")
    assert not report.findings and len(sets_of(records)) == 1
    assert set(served.asked) == {"train.index.npz"}  # nothing else until a picture is read
    pictures(records, served.records)
    tars = sorted(path.name for path in served.folder.glob("*.tar"))
    assert len(tars) > 3 and all(served.asked[name] == 1 for name in tars)
    again, _ = read_shards(served.url, "train")
    pictures(again, served.records)
    assert all(served.asked[name] == 1 for name in tars)
    assert not list(records.image_dir.glob("**/*.part"))
    assert not check_shards(sets_of(again)[0], deep=True).findings


def test_failures_on_the_way_are_tried_again(served):
    served.faults |= {
        "train.index.npz": [503],
        "train-000000.tar": [500, "cut", "flip", "short"],
        "train-000001.tar": [429],
    }
    records, _ = read_shards(served.url, "train", retries=4)
    pictures(records, served.records)
    assert served.asked["train-000000.tar"] == 5 and served.asked["train-000001.tar"] == 2


@pytest.mark.parametrize(
    ("faults", "tries", "reason"),
    [
        ([404], "1 try", "the server answers 404"),
        ([403], "1 try", "the server answers 403"),
        ([503] * 9, "3 tries", "the server answers 503"),
        (["flip"] * 9, "3 tries", "SHA-256 is not the index's"),
        (["short"] * 9, "3 tries", "bytes came, the index says"),
    ],
)
def test_what_cannot_be_fetched_is_named(served, faults, tries, reason):
    records, _ = read_shards(served.url, "train", retries=2)
    served.faults["train-000000.tar"] = faults
    with pytest.raises(DataError) as caught:
        read_image(records.path(0))
    message = str(caught.value)
    assert f"{served.url}/train-000000.tar could not be fetched in {tries}" in message and reason in message
    assert not list(records.image_dir.glob("*.tar")) and not list(records.image_dir.glob(".*.part"))


def test_no_server_and_no_split(served):
    with pytest.raises(DataError, match=r"val\.index\.npz could not be fetched in 1 try: the server answers 404"):
        read_shards(served.url, "val")
    served.server.shutdown()
    served.server.server_close()
    with pytest.raises(DataError, match=r"could not be fetched in 2 tries.*Check address, network and rights"):
        read_shards(served.url, "train", retries=1)


def test_without_network_the_index_of_an_earlier_run_does(served):
    records, _ = read_shards(served.url, "train")
    pictures(records, served.records)
    served.faults["train.index.npz"] = [503] * 9
    again, report = read_shards(served.url, "train", retries=1)
    assert [finding.code for finding in report.warnings] == ["old-index"] and served.url in report.warnings[0].message
    pictures(again, served.records)


def test_shards_written_anew_replace_the_old_ones(served, tmp_path):
    records, _ = read_shards(served.url, "train")
    pictures(records, served.records)
    shutil.rmtree(served.folder)
    write_shards(served.records, served.folder, split="train", shard_mb=0.002, shuffle=5)
    fresh, _ = read_shards(served.url, "train")
    order = (fresh.image_ids - 100).tolist()
    pictures(fresh, served.records.subset(order))


def test_the_folder_keeps_to_its_limit(served):
    sizes = [path.stat().st_size for path in served.folder.glob("*.tar")]
    limit = 2 * max(sizes)
    records, _ = read_shards(served.url, "train", cache_gigabytes=limit / 1e9)
    for _ in range(2):
        for i in range(len(records)):
            read_image(records.path(i))
            assert sum(path.stat().st_size for path in records.image_dir.glob("*.tar")) <= limit
    with pytest.raises(ConfigError, match="holds no shard"):
        read_shards(served.url, "train", cache_gigabytes=(min(sizes) - 1) / 1e9)


def read_all(records, sizes):
    for i in range(len(records)):
        if read_image(records.path(i), expected_size=sizes[i]).shape[:2] != sizes[i]:
            os._exit(1)


def test_processes_at_once_fetch_each_shard_once(served):
    records, _ = read_shards(served.url, "train")
    sizes = [tuple(size) for size in served.records.sizes.tolist()]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_all, args=(records, sizes)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert {count for name, count in served.asked.items() if name.endswith(".tar")} == {1}


def test_a_spawned_worker_can_fetch(served):
    records, _ = read_shards(served.url, "train")
    dataset = DetectionDataset(records, [], training=False, store=plan_store(records, None).store)
    content = pickle.dumps(dataset)
    shards._OPENED.clear()  # as in a process that has opened nothing
    copy = pickle.loads(content)
    assert copy[0]["image"].shape[2] == 3 and served.asked["train-000000.tar"] == 1


def test_caches_before_shards_of_an_address(served, tmp_path):
    records, _ = read_shards(served.url, "train")
    with pytest.raises(ConfigError, match="kept on disk anyway"):
        plan_store(records, "disk")
    plan = plan_store(records, "ram")
    need = sum(served.records.path(i).stat().st_size for i in range(len(records)))
    assert plan.store.max_bytes >= need and not any(name.endswith(".tar") for name in served.asked)
    dataset = DetectionDataset(records, [], training=False, store=plan.store)
    first = [dataset[i]["image"] for i in range(len(records))]
    for path in records.image_dir.glob("*.tar"):
        path.unlink()
    for i, image in enumerate(first):
        np.testing.assert_array_equal(dataset[i]["image"], image)
    assert {count for name, count in served.asked.items() if name.endswith(".tar")} == {1}


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("pipe:cat {}", "runs a shell command.*allow_pipe=True"),
        ("ftp://host/x", "cannot fetch from ftp://"),
        ("javascript://x", "cannot fetch from javascript://"),
    ],
)
def test_addresses_that_are_refused(root, message, tmp_path):
    assert is_url(root)
    with pytest.raises(ConfigError, match=message):
        read_shards(root, "train", cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_is_allowed(served, tmp_path):
    root = f"pipe:cat {served.folder}/{{}}"
    records, _ = read_shards(root, "train", allow_pipe=True)
    pictures(records, served.records)
    with pytest.raises(DataError, match=r"cat .*val\.index\.npz could not be fetched in 1 try"):
        read_shards(root, "val", allow_pipe=True, retries=0)
    with pytest.raises(ConfigError, match=r"needs \{\} where"):
        read_shards("pipe:cat x", "train", allow_pipe=True)


def test_s3_through_the_aws_tool(served, tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "aws"
    tool.parent.mkdir()
    monkeypatch.setenv("PATH", str(tool.parent))
    with pytest.raises(MissingExtra, match="aws command-line tool"):
        read_shards("s3://bucket/set", "train", retries=0)
    script = '#!/bin/sh\n[ "$1 $2 $3 $5" = "s3 cp --only-show-errors -" ] || exit 9\n'
    script += 'case "$4" in *val*) echo "An error occurred (NoSuchKey)" >&2; exit 1;; esac\n'
    script += f"/bin/cat {served.folder}/${{4##*/}}\n"
    tool.write_text(script)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    records, _ = read_shards("s3://bucket/set", "train")
    pictures(records, served.records)
    with pytest.raises(DataError, match=r"s3://bucket/set/val\.index\.npz.*NoSuchKey"):
        read_shards("s3://bucket/set", "val", retries=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra, match="'gsutil', which is not on the PATH"):
        read_shards("gs://bucket/set", "train", retries=0)


def test_an_address_keeps_its_query(tmp_path):
    remote = Remote("https://host/a/b/?token=x", tmp_path)
    assert remote.url("train.index.npz") == "https://host/a/b/train.index.npz?token=x"
    assert Remote("s3://bucket", tmp_path).url("a.tar") == "s3://bucket/a.tar"
