"""Fetching from a server on loopback; no other network."""

import contextlib
import hashlib
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.read import fetch as module
from emodecode.read.fetch import fetch, known_sets

BIG = np.random.default_rng(0).bytes(1_000_000)
SMALL = b"onset\tduration\n0\t1\n"


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; knows Range and If-Range; can break off and refuse."""

    def do_GET(self):
        server = self.server
        wanted_range, path = self.headers.get("Range"), self.path.lstrip("/")
        server.log.append((path, wanted_range))
        content = server.files.get(path)
        if content is None or server.status:
            self.send_response(server.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        if wanted_range and server.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted_range.removeprefix("bytes=").removesuffix("-")) - server.shift
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        if server.breaks and len(body) > 1000:
            server.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):  # the client may have seen enough
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.log, server.status = {}, [], 0
        server.breaks, server.ranges, server.tags, server.shift = 0, True, True, 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def sets(server, monkeypatch):
    """Two small sets as in the registry, one with checksums and one without."""
    registry = {
        "ratings": {
            "title": "two files with checksums",
            "base_url": f"{server.url}/public",
            "files": {
                "raw/big.csv": {"url": "v1/data/big.csv", "hash": sha256(BIG)},
                "small.tsv": {"url": "v1/small.tsv", "hash": sha256(SMALL)},
            },
        },
        "scans": {
            "title": "images by subject and run",
            "base_url": f"{server.url}/scans",
            "checksums_url": f"{server.url}/keys",
            "subjects": ["01", "02"],
            "runs": ["1", "2"],
            "common": ["participants.tsv"],
            "optional": ["task.json"],
            "per_run": ["sub-{subject}/sub-{subject}_run-{run}_bold.nii.gz"],
        },
    }
    monkeypatch.setattr(module, "_registry", lambda: registry)
    server.files |= {"public/v1/data/big.csv": BIG, "public/v1/small.tsv": SMALL}
    server.files["scans/participants.tsv"] = SMALL
    for subject in ("01", "02"):
        for run in "12":
            name = f"sub-{subject}/sub-{subject}_run-{run}_bold.nii.gz"
            content = BIG[int(run) :]
            server.files[f"scans/{name}"] = content
    return registry


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if "partial" in path.name or "tmp" in path.name]


def add_keys(server):
    """What a public git repository of the data holds: links into the annex, and small files."""
    for name, content in list(server.files.items()):
        if name.startswith("scans/"):
            digest = hashlib.md5(content).hexdigest()
            key = f"MD5E-s{len(content)}--{digest}.nii.gz"
            link = f"../.git/annex/objects/Kq/2j/{key}/{key}".encode()
            server.files[name.replace("scans/", "keys/", 1)] = (
                link if name.endswith(".gz") else content
            )


def test_files_come_whole_checked_and_recorded(tmp_path, server, sets):
    folder = tmp_path / "new" / "folder"
    paths = fetch("ratings", folder, progress=False)
    assert paths == [folder / "raw/big.csv", folder / "small.tsv"]
    assert [path.read_bytes() for path in paths] == [BIG, SMALL]
    assert leftovers(folder) == []
    # an independent program agrees with the record
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert checked.stdout.split() == ["raw/big.csv:", "OK", "small.tsv:", "OK"]


def test_what_is_there_is_not_fetched_again(tmp_path, server, sets):
    fetch("ratings", tmp_path, progress=False)
    n_requests = len(server.log)
    assert len(fetch("ratings", tmp_path, progress=False)) == 2
    assert len(server.log) == n_requests


def test_a_mirror_has_the_names_on_disk(tmp_path, server, sets):
    server.files = {"mirror/raw/big.csv": BIG, "mirror/small.tsv": SMALL}
    fetch("ratings", tmp_path, base_url=f"{server.url}/mirror/", progress=False)
    assert (tmp_path / "raw/big.csv").read_bytes() == BIG


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, server, sets):
    server.breaks = 1
    fetch("ratings", tmp_path, progress=False)
    assert (tmp_path / "raw/big.csv").read_bytes() == BIG
    (first, second) = [wanted for path, wanted in server.log if path.endswith("big.csv")]
    assert first is None
    start = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 480_000 < start <= 500_000  # what was on its way when it broke may be lost
    assert leftovers(tmp_path) == []


def test_a_later_call_goes_on_too(tmp_path, server, sets):
    server.breaks = 3
    with pytest.raises(DataMissingError) as caught:
        fetch("ratings", tmp_path, progress=False)
    came = (tmp_path / "raw/big.csv.partial").stat().st_size
    assert 800_000 < came <= 875_000
    assert f"{came} bytes have come" in caught.value.found
    assert "it goes on from there" in caught.value.remedy
    assert not (tmp_path / "raw/big.csv").exists()
    server.log.clear()
    fetch("ratings", tmp_path, progress=False)
    assert server.log[0] == ("public/v1/data/big.csv", f"bytes={came}-")
    assert (tmp_path / "raw/big.csv").read_bytes() == BIG


@pytest.mark.parametrize(("what", "value"), [("ranges", False), ("tags", False), ("shift", 7)])
def test_servers_that_cannot_continue_send_all_again(tmp_path, server, sets, what, value):
    """They ignore Range, have no mark of the version, or send another range than asked for."""
    setattr(server, what, value)
    server.breaks = 1
    fetch("ratings", tmp_path, progress=False)
    assert (tmp_path / "raw/big.csv").read_bytes() == BIG


def test_the_rest_of_another_version_is_not_appended(tmp_path, server, sets):
    """Without a checksum only the server's mark of the version can tell."""
    name = "scans/sub-01/sub-01_run-1_bold.nii.gz"
    server.breaks = 3
    mirror = {"base_url": f"{server.url}/scans", "subjects": ["01"], "runs": ["1"]}
    with pytest.raises(DataMissingError, match="broke off"):
        fetch("scans", tmp_path, progress=False, **mirror)
    server.files[name] = BIG[::-1]
    fetch("scans", tmp_path, progress=False, **mirror)
    assert (tmp_path / name.removeprefix("scans/")).read_bytes() == BIG[::-1]


def test_a_complete_partial_file_is_only_renamed(tmp_path, server, sets):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/big.csv.partial").write_bytes(BIG)
    tag = f'"{hashlib.md5(BIG).hexdigest()}"'
    (tmp_path / "raw/big.csv.partial.version").write_text(tag)
    fetch("ratings", tmp_path, progress=False)
    assert (tmp_path / "raw/big.csv").read_bytes() == BIG
    assert [wanted for path, wanted in server.log if "big" in path] == ["bytes=1000000-"]


def test_a_wrong_file_is_removed(tmp_path, server, sets):
    server.files["public/v1/data/big.csv"] = BIG[:-1] + b"!"
    with pytest.raises(InputError) as caught:
        fetch("ratings", tmp_path, progress=False)
    assert sha256(BIG).removeprefix("sha256:") in caught.value.found
    assert "deleted" in caught.value.expected
    assert list(tmp_path.rglob("*.csv*")) == []


def test_a_changed_file_is_neither_used_nor_overwritten(tmp_path, server, sets):
    fetch("ratings", tmp_path, progress=False)
    (tmp_path / "small.tsv").write_text("my own notes")
    with pytest.raises(InputError, match="another checksum than the one recorded"):
        fetch("ratings", tmp_path, progress=False)
    assert (tmp_path / "small.tsv").read_text() == "my own notes"


def test_checksums_come_from_the_keys_of_the_public_repository(tmp_path, server, sets, capsys):
    add_keys(server)
    paths = fetch("scans", tmp_path, subjects=["02"], progress=False)
    assert [path.name for path in paths] == [
        "participants.tsv",
        "sub-02_run-1_bold.nii.gz",
        "sub-02_run-2_bold.nii.gz",
    ]
    assert capsys.readouterr().err == ""
    server.files["scans/sub-01/sub-01_run-1_bold.nii.gz"] = BIG[::-1]
    with pytest.raises(InputError, match="MD5 hash of downloaded file"):
        fetch("scans", tmp_path, subjects=["01"], progress=False)


def test_files_without_a_checksum_are_said_and_held_to_from_then_on(tmp_path, server, sets, capsys):
    (_, image) = fetch("scans", tmp_path, subjects=["01"], runs=["2"], progress=False)
    said = capsys.readouterr().err
    assert "2 files of scans could not be verified" in said
    assert "SHA256SUMS" in said
    image.unlink()
    name = "scans/sub-01/sub-01_run-2_bold.nii.gz"
    content, server.files[name] = server.files[name], BIG[::-1]
    with pytest.raises(InputError, match="does not match the known hash"):
        fetch("scans", tmp_path, subjects=["01"], runs=["2"], progress=False)
    server.files[name] = content
    fetch("scans", tmp_path, subjects=["01"], runs=["2"], progress=False)
    assert image.read_bytes() == content
    assert capsys.readouterr().err == ""


def test_an_optional_file_comes_if_it_exists(tmp_path, server, sets, capsys):
    server.files["scans/task.json"] = b"{}"
    paths = fetch("scans", tmp_path, subjects=["01"], runs=["1"], progress=False)
    assert tmp_path / "task.json" in paths


def test_progress_is_shown_on_stderr(tmp_path, server, sets, capsys):
    fetch("ratings", tmp_path)
    shown = capsys.readouterr()
    assert "big.csv: 100%" in shown.err
    assert shown.out == ""


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("rating", {}, "Did you mean 'ratings'?"),
        ("scans", {"subjects": ["sub-01"]}, "no subject sub-01\nexpected: some of 01, 02"),
        ("scans", {"runs": ["3"]}, "no run 3"),
        ("ratings", {"subjects": ["01"]}, "this set has none"),
        ("ratings", {"base_url": "ftp://x"}, "begins with http:// or https://"),
        ("ratings", {"base_url": "mirror"}, "--url: 'mirror'"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, server, sets, name, options, text):
    with pytest.raises(InputError) as caught:
        fetch(name, tmp_path, progress=False, **options)
    assert text in str(caught.value)
    assert server.log == []


@pytest.mark.parametrize(
    ("status", "text"), [(404, "it has no such file"), (403, "it has no such file"), (503, "later")]
)
def test_servers_that_refuse(tmp_path, server, sets, status, text):
    server.status = status
    with pytest.raises(DataMissingError) as caught:
        fetch("ratings", tmp_path, progress=False)
    assert str(status) in caught.value.found
    assert text in str(caught.value)


def test_a_missing_optional_file_is_not_the_same_as_a_failing_server(tmp_path, server, sets):
    del server.files["scans/participants.tsv"]
    with pytest.raises(DataMissingError, match=r"participants\.tsv: the server answers 404"):
        fetch("scans", tmp_path, progress=False)


def test_without_a_network_the_message_says_what_to_do(tmp_path, server, sets):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    with pytest.raises(DataMissingError, match="no answer") as caught:
        fetch("ratings", tmp_path, base_url=url, progress=False)
    assert "copy the files into the folder by hand" in caught.value.remedy


def test_a_full_disk_is_noticed_before_the_download(tmp_path, server, sets, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=900_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="1 MB free on the disk"):
        fetch("ratings", tmp_path, progress=False)


def test_folders_that_cannot_be_written_are_refused(tmp_path, server, sets):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it cannot be written"):
        fetch("ratings", tmp_path / "file" / "folder", progress=False)
    assert server.log == []


def test_a_datalad_folder_is_left_alone(tmp_path, server, sets):
    (tmp_path / "small.tsv").symlink_to(".git/annex/objects/aa/bb/key")
    with pytest.raises(InputError, match="datalad get"):
        fetch("ratings", tmp_path, progress=False)


def test_a_broken_record_is_named(tmp_path, server, sets):
    (tmp_path / "SHA256SUMS").write_text("not a checksum\n")
    with pytest.raises(InputError, match="'not a checksum'"):
        fetch("ratings", tmp_path, progress=False)


# --- the registry --------------------------------------------------------------------------------


def test_the_registry_names_its_sets():
    assert set(known_sets()) == {"studyforrest-annotations", "ds000113"}
    entry = module._registry()["ds000113"]
    wanted = module._wanted(entry, None, None, None)
    images = [file for file in wanted if file.name.endswith("_bold.nii.gz")]
    assert len(images) == 15 * 8
    first = "sub-01/ses-movie/func/sub-01_ses-movie_task-movie_run-1_bold.nii.gz"
    assert images[0].name == first
    assert images[0].url == f"https://s3.amazonaws.com/openneuro.org/ds000113/{first}"


@pytest.mark.data
def test_the_registry_has_the_checksums_of_the_real_annotations(tmp_path, server, data_dir):
    source = data_dir / "studyforrest_annotations"
    for path in source.rglob("*"):
        if path.is_file():
            server.files[path.relative_to(source).as_posix()] = path.read_bytes()
    paths = fetch("studyforrest-annotations", tmp_path, base_url=server.url, progress=False)
    assert len(list((tmp_path / "emotions_raw").glob("av1o*.csv"))) == 9
    assert len(list((tmp_path / "segments_avmovie").glob("emotions*.tsv"))) == 8
    assert len(paths) == 19
