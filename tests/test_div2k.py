"""DIV2K's download against a server on this machine, with archives of three small photos."""

import hashlib
import http.server
import io
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import div2k
from common import download as downloading
from common.div2k import download_div2k

HR, LR = "DIV2K_train_HR", "DIV2K_train_LR_bicubic_X4"
HR_ZIP, LR_ZIP = f"{HR}.zip", f"{LR}.zip"
HR_NAMES = ["0001.png", "0002.png", "0003.png"]
LR_NAMES = ["0001x4.png", "0002x4.png", "0003x4.png"]
PAUSE = 0.001


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` with ranges, failing as `server.plan[name]` says next."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((name, asked))
        fault = next(self.server.plan.get(name, iter(())), None)
        if isinstance(fault, int) or name not in self.server.files:
            return self.send_error(fault or 404)

        if fault == "silent":
            self.server.released.wait(20)
            return None
        if fault == "slow":
            self.server.released.wait(20)
        data = self.server.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if fault == "ignore range":
            start = 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            return self.end_headers()
        if isinstance(fault, tuple) and fault[0] == "leads to":
            self.send_response(302)
            self.send_header("Location", fault[1])
            return self.end_headers()
        rest = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if isinstance(fault, tuple):  # headers to send in place of the true ones
            for header in fault:
                self.send_header(*header)
        elif fault not in ("no length", "endless"):
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if fault == "drop":
            rest = b""
        elif fault in ("break", "reset", "hang"):
            rest = rest[: (len(rest) + 1) // 2]
        elif fault == "wrong bytes":
            rest = bytes(255 - byte for byte in rest)
        self.wfile.write(rest)
        if fault == "reset":  # the client gets ECONNRESET rather than an orderly end
            two = "hh" if os.name == "nt" else "ii"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(two, 1, 0))
        elif fault == "hang":
            self.server.released.wait(20)
        elif fault in ("endless", "too much"):
            self.send_more()

    def send_more(self):
        try:
            for _ in range(500):
                self.wfile.write(bytes(100_000))
                self.server.n_endless += 1
        except ConnectionError:
            pass  # the client has gone, as it should


@pytest.fixture
def server(monkeypatch):
    """Give a running server, and let `ARCHIVES` hold two small archives that it serves."""
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.plan, server.requests, server.n_endless = {}, {}, [], 0
    server.released = threading.Event()
    monkeypatch.setattr(div2k, "ARCHIVES", {})
    monkeypatch.setattr(downloading, "PAUSE", PAUSE)
    publish(server, HR, zip_of({f"{HR}/{name}": png(48, name) for name in HR_NAMES}))
    publish(
        server,
        LR,
        zip_of({f"DIV2K_train_LR_bicubic/X4/{name}": png(12, name) for name in LR_NAMES}),
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def png(size, seed):
    """Return a PNG of noise, the same for the same `seed`."""
    noise = np.random.default_rng(list(seed.encode())).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


def zip_of(files):
    """Return an archive of `files`, which maps names or `ZipInfo` to contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return buffer.getvalue()


def publish(server, name, data, n_images=3):
    """Serve `data` as archive `name`, with its MD5 in the table."""
    server.files[f"{name}.zip"] = data
    div2k.ARCHIVES[name] = (hashlib.md5(data).hexdigest(), n_images)


def download(server, root, **arguments):
    return download_div2k(root, base_url=server.url, **arguments)


def gets(server, name=HR_ZIP):
    """Return the Range headers of the requests for `name`."""
    return [asked for asked_name, asked in server.requests if asked_name == name]


def assert_complete(root, folders=None):
    """Check every photo byte for byte, and that nothing else is left under `root`."""
    hr, lr = root / HR, root / "DIV2K_train_LR_bicubic" / "X4"
    assert folders in (None, (hr, lr))
    wanted = {hr / name: png(48, name) for name in HR_NAMES}
    wanted |= {lr / name: png(12, name) for name in LR_NAMES}
    assert {path: path.read_bytes() for path in files_in(root)} == wanted


def files_in(folder):
    """Return the files below `folder`, without the lock's, which stays and is empty."""
    files = {path for path in folder.rglob("*") if not path.is_dir()}
    return {path for path in files if path.suffix != ".lock" or path.stat().st_size}


# the way it should go


def test_both_archives_are_downloaded_and_unpacked_and_removed(server, tmp_path):
    assert_complete(tmp_path, download(server, tmp_path))


def test_second_call_makes_no_request(server, tmp_path):
    folders = download(server, tmp_path)
    server.requests.clear()
    assert download(server, tmp_path) == folders
    assert server.requests == []


def test_only_what_is_missing_is_downloaded(server, tmp_path):
    download(server, tmp_path)
    shutil.rmtree(tmp_path / "DIV2K_train_LR_bicubic")
    server.requests.clear()
    assert_complete(tmp_path, download(server, tmp_path))
    assert {name for name, _ in server.requests} == {LR_ZIP}


def test_relative_root_hangs_from_the_repository(server, tmp_path, monkeypatch):
    assert (div2k.REPOSITORY / "common" / "div2k.py").samefile(div2k.__file__)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(div2k, "REPOSITORY", tmp_path)
    assert_complete(tmp_path / "photos", download(server, "photos"))


def test_script_runs_from_any_directory_and_prints_the_folders(tmp_path):
    hr, lr = tmp_path / "DIV2K_valid_HR", tmp_path / "DIV2K_valid_LR_unknown" / "X4"
    for folder, ending in (hr, ".png"), (lr, "x4.png"):
        folder.mkdir(parents=True)
        for number in range(801, 901):
            (folder / f"{number:04}{ending}").touch()
    arguments = ["--root", str(tmp_path), "--split", "valid", "--track", "unknown"]
    output = subprocess.run(
        [sys.executable, div2k.__file__, *arguments], cwd=tmp_path, check=True, capture_output=True
    )
    assert output.stdout.decode().splitlines() == [str(hr), str(lr)]


@pytest.mark.parametrize("within", ["", "X4/"])
def test_four_wild_photos_belong_to_each_hr_photo(server, tmp_path, within):
    names = [f"000{i}x4w{j}.png" for i in (1, 2, 3) for j in (1, 2, 3, 4)]
    files = {f"DIV2K_train_LR_wild/{within}{name}": png(12, name) for name in names}
    publish(server, "DIV2K_train_LR_wild", zip_of(files), 12)
    _, lr_folder = download(server, tmp_path, track="wild")
    assert sorted(path.name for path in lr_folder.iterdir()) == names


def test_photos_that_somebody_unpacked_to_a_folder_within_are_used(server, tmp_path):
    within = tmp_path / "DIV2K_train_LR_mild" / "X4"
    within.mkdir(parents=True)
    for number in (1, 2, 3):
        (within / f"000{number}x4m.png").touch()
    div2k.ARCHIVES["DIV2K_train_LR_mild"] = ("no archive is needed", 3)
    assert download(server, tmp_path, track="mild") == (tmp_path / HR, within)


@pytest.mark.parametrize(
    ("split", "track"), [("valid", "wild"), ("test", "bicubic"), ("train", "x8"), ("train", "HR")]
)
def test_split_or_track_that_does_not_exist_is_an_error_that_says_which_do(split, track, tmp_path):
    with pytest.raises(ValueError, match=rf"{split}.*{track}.*DIV2K_valid_LR_unknown_X4"):
        download_div2k(tmp_path, split=split, track=track)


def test_table_is_the_published_one():
    digests = [md5 for md5, _ in div2k.ARCHIVES.values()]
    assert len(set(digests)) == 9
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in digests)
    assert div2k.ARCHIVES["DIV2K_train_HR"] == ("bdc2d9338d4e574fe81bf7d158758658", 800)
    assert div2k.ARCHIVES["DIV2K_valid_HR"] == ("9fcdda83005c5e5997799b69f955ff88", 100)
    assert div2k.ARCHIVES["DIV2K_train_LR_wild"] == ("d00982366bffee7c4739ba7ff1316b3b", 3200)
    assert div2k.ARCHIVES[LR] == ("76c43ec4155851901ebbe8339846d93d", 800)


# the network


def test_broken_connection_is_continued_where_it_stopped(server, tmp_path):
    server.plan[HR_ZIP] = iter(["break"])
    assert_complete(tmp_path, download(server, tmp_path))
    half = (len(server.files[HR_ZIP]) + 1) // 2
    assert gets(server) == [None, f"bytes={half}-"]


def test_silent_server_counts_as_a_broken_connection(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.5)
    server.plan[HR_ZIP] = iter(["silent", "hang", "silent"])
    start = time.monotonic()
    assert_complete(tmp_path, download(server, tmp_path))
    assert time.monotonic() - start < 15  # seconds; the server would be silent for 20
    assert len(gets(server)) == 4


def test_reset_connection_is_tried_again(server, tmp_path):
    server.plan[HR_ZIP] = iter(["reset", "reset"])
    assert_complete(tmp_path, download(server, tmp_path))
    assert len(gets(server)) == 3


def test_attempts_that_made_progress_do_not_count(server, tmp_path):
    server.plan[HR_ZIP] = iter(["break"] * 10)
    assert_complete(tmp_path, download(server, tmp_path))
    assert len(gets(server)) == 11


def test_download_gives_up_in_the_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "ATTEMPTS", 4)
    server.plan[HR_ZIP] = itertools.repeat("drop")
    with pytest.raises(ConnectionError, match=rf"{server.url}/{HR_ZIP}"):
        download(server, tmp_path)
    assert len(gets(server)) == 4


def test_only_archives_that_are_still_missing_are_named_after_a_failure(server, tmp_path):
    server.plan[LR_ZIP] = itertools.repeat(404)
    with pytest.raises(ConnectionError, match=LR_ZIP) as raised:
        download(server, tmp_path)
    assert HR_ZIP not in str(raised.value)


def test_part_that_a_killed_process_left_is_continued(server, tmp_path):
    (tmp_path / f"{HR_ZIP}.part").write_bytes(server.files[HR_ZIP][:1000])
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == ["bytes=1000-"]


def test_download_of_a_process_killed_in_the_middle_is_continued(server, tmp_path):
    server.plan[HR_ZIP] = iter(["hang"])
    code = (
        "import json, sys; from common import div2k; div2k.ARCHIVES = json.loads(sys.argv[1]);"
        "div2k.download_div2k(sys.argv[2], base_url=sys.argv[3])"
    )
    arguments = [json.dumps(div2k.ARCHIVES), str(tmp_path), server.url]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=div2k.REPOSITORY, stderr=subprocess.DEVNULL
    )
    part = tmp_path / f"{HR_ZIP}.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    arrived = part.stat().st_size
    assert 0 < arrived < len(server.files[HR_ZIP])
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == [None, f"bytes={arrived}-"]


def test_complete_part_is_not_downloaded_again(server, tmp_path):
    data = server.files[HR_ZIP]
    (tmp_path / f"{HR_ZIP}.part").write_bytes(data)
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == [f"bytes={len(data)}-"]  # answered by 416


@pytest.mark.parametrize("n_bytes", [1000, 10**6])
def test_part_of_something_else_is_replaced(server, tmp_path, n_bytes):
    (tmp_path / f"{HR_ZIP}.part").write_bytes(bytes(n_bytes))
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == [f"bytes={n_bytes}-", None]


def test_server_that_ignores_ranges_starts_the_file_over(server, tmp_path):
    (tmp_path / f"{HR_ZIP}.part").write_bytes(server.files[HR_ZIP][:1000])
    server.plan[HR_ZIP] = iter(["ignore range"])
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == ["bytes=1000-"]


def test_wrong_bytes_are_downloaded_once_more(server, tmp_path):
    server.plan[HR_ZIP] = iter(["wrong bytes"])
    assert_complete(tmp_path, download(server, tmp_path))
    assert gets(server) == [None, None]


def test_wrong_bytes_twice_are_an_error_with_both_md5s(server, tmp_path):
    server.plan[HR_ZIP] = itertools.repeat("wrong bytes")
    found = hashlib.md5(bytes(255 - byte for byte in server.files[HR_ZIP])).hexdigest()
    with pytest.raises(OSError, match=f"{found}, expected {div2k.ARCHIVES[HR][0]}"):
        download(server, tmp_path)
    assert len(gets(server)) == 2
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_address_that_does_not_exist_fails_at_once(server, tmp_path, status):
    server.plan[HR_ZIP] = itertools.repeat(status)
    with pytest.raises(ConnectionError, match=str(status)):
        download(server, tmp_path)
    assert server.requests == [(HR_ZIP, None)]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_busy_server_is_asked_again_with_growing_pauses(server, tmp_path, monkeypatch, status):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(downloading, "PAUSE", 2)
    server.plan[HR_ZIP] = iter([status] * 5)
    assert_complete(tmp_path, download_div2k(tmp_path, base_url=server.url))
    assert pauses == [2, 4, 8, 16, 32]


def test_busy_server_is_given_up_in_the_end(server, tmp_path):
    server.plan[HR_ZIP] = itertools.repeat(503)
    with pytest.raises(ConnectionError, match="503"):
        download(server, tmp_path)
    assert len(server.requests) == 6


def test_bytes_after_the_announced_length_are_not_read(server, tmp_path):
    server.plan[HR_ZIP] = iter(["too much"])
    assert_complete(tmp_path, download(server, tmp_path))
    assert server.n_endless < 500


def test_endless_download_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "MAX_BYTES", 10**6)
    server.plan[HR_ZIP] = itertools.repeat("endless")
    with pytest.raises(OSError, match="after 1000000 bytes"):
        download(server, tmp_path)
    assert len(gets(server)) == 1
    assert server.n_endless < 500
    assert sum(path.stat().st_size for path in files_in(tmp_path)) == 0


def test_server_that_never_says_the_length_is_enough(server, tmp_path):
    server.plan = {name: iter(["no length"]) for name in (HR_ZIP, LR_ZIP)}
    assert_complete(tmp_path, download(server, tmp_path))


def test_length_beyond_the_disk_is_refused(server, tmp_path):
    server.plan[HR_ZIP] = iter([(("Content-Length", "9" * 18),)])
    with pytest.raises(OSError, match=f"GB are needed for {HR_ZIP}"):
        download(server, tmp_path)
    assert files_in(tmp_path) == set()


def test_page_in_place_of_the_archive_is_refused(server, tmp_path):
    server.files[HR_ZIP] = b"<html>Please sign in to this network</html>"
    with pytest.raises(OSError, match="came twice with a wrong MD5"):
        download(server, tmp_path)
    assert files_in(tmp_path) == set()


def test_what_a_server_says_cannot_steer_the_terminal(server, tmp_path):
    server.plan[HR_ZIP] = itertools.repeat(("leads to", "ftp\x1b[2J://a"))
    with pytest.raises(ConnectionError) as raised:
        download(server, tmp_path)
    assert "\x1b" not in str(raised.value)


def test_offline_fails_soon_and_names_the_ways_on(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(downloading, "PAUSE", 2)
    with socket.socket() as closed:  # bound, but nobody listens: connections are refused
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConnectionError) as raised:
            download_div2k(tmp_path, base_url=url)
    assert pauses == [2]
    for way in f"{url}/{HR_ZIP}", f"{url}/{LR_ZIP}", str(tmp_path), "quickstart", "prepare_dataset":
        assert way in str(raised.value)


def test_name_that_cannot_be_resolved_counts_as_offline(server, tmp_path, monkeypatch):
    def nobody_knows(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody_knows)
    with pytest.raises(ConnectionError, match="not known"):
        download_div2k(tmp_path, base_url="http://nowhere.invalid")


# the disk


@pytest.fixture
def free_space(monkeypatch):
    """Give a function that sets how many bytes every disk has free."""
    usage = namedtuple("usage", "total used free")

    def set_free(n_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, n_bytes))

    return set_free


def test_disk_that_is_too_small_stops_before_the_download(server, tmp_path, free_space):
    needed = 2 * len(server.files[HR_ZIP])
    free_space(needed - 1)
    with pytest.raises(OSError, match=f"for {HR_ZIP}"):
        download(server, tmp_path)
    assert gets(server, LR_ZIP) == []
    assert files_in(tmp_path) == set()
    free_space(needed)
    assert_complete(tmp_path, download(server, tmp_path))


def test_bytes_that_lie_there_already_need_no_more_space(server, tmp_path, free_space):
    (tmp_path / f"{HR_ZIP}.part").write_bytes(server.files[HR_ZIP][:500])
    needed = 2 * len(server.files[HR_ZIP]) - 500
    free_space(needed - 1)
    with pytest.raises(OSError, match=f"for {HR_ZIP}"):
        download(server, tmp_path)
    free_space(needed)
    assert_complete(tmp_path, download(server, tmp_path))


def test_disk_that_is_too_small_to_unpack_leaves_the_archive(server, tmp_path, free_space):
    server.plan[HR_ZIP] = itertools.repeat("no length")
    free_space(10)
    with pytest.raises(OSError, match=f"to unpack {HR_ZIP}"):
        download(server, tmp_path)
    assert files_in(tmp_path) == {tmp_path / HR_ZIP}


def test_full_disk_is_not_taken_for_a_broken_connection(server, tmp_path, monkeypatch):
    def full(path, *args, **kwargs):
        if path.suffix == ".part" and "r" not in args[0]:
            raise OSError(28, "No space left on device")
        return open_path(path, *args, **kwargs)

    open_path = Path.open
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left") as raised:
        download(server, tmp_path)
    assert not isinstance(raised.value, ConnectionError)
    assert len(gets(server)) == 1


@pytest.mark.parametrize("name", [HR, "DIV2K_train_LR_bicubic/X4"])
@pytest.mark.parametrize("n_images", [0, 2, 4])
def test_folder_with_a_wrong_number_of_photos_is_an_error(server, tmp_path, name, n_images):
    (tmp_path / name).mkdir(parents=True)
    for number in range(n_images):
        (tmp_path / name / f"{number:04}.png").touch()
    (tmp_path / name / "._0001.png").touch()
    message = re.escape(f"{tmp_path / name} holds {n_images} images, expected 3: delete the folder")
    with pytest.raises(OSError, match=message):
        download(server, tmp_path)
    assert server.requests == []


def test_archives_placed_by_hand_are_used(server, tmp_path):
    for name, data in server.files.items():
        (tmp_path / name).write_bytes(data)
    assert_complete(tmp_path, download(server, tmp_path))
    assert server.requests == []


def test_archive_placed_by_hand_is_used_beside_one_to_download(server, tmp_path):
    (tmp_path / HR_ZIP).write_bytes(server.files[HR_ZIP])
    (tmp_path / f"{HR_ZIP}.part").write_bytes(b"the download was given up here")
    assert_complete(tmp_path, download(server, tmp_path))
    assert {name for name, _ in server.requests} == {LR_ZIP}


def test_damaged_archive_placed_by_hand_is_reported_and_kept(server, tmp_path):
    (tmp_path / HR_ZIP).write_bytes(server.files[HR_ZIP][:-1])
    with pytest.raises(OSError, match=f"{HR_ZIP} has the MD5 .*{div2k.ARCHIVES[HR][0]}.*replace"):
        download(server, tmp_path)
    assert server.requests == []
    assert (tmp_path / HR_ZIP).read_bytes() == server.files[HR_ZIP][:-1]


# the archives


@pytest.mark.parametrize("names", [HR_NAMES[:2], [*HR_NAMES, "0004.png"]])
def test_archive_with_a_wrong_number_of_photos_is_refused(server, tmp_path, names):
    publish(server, HR, zip_of({f"{HR}/{name}": png(48, name) for name in names}))
    with pytest.raises(OSError, match=f"holds {len(names)} images, expected 3"):
        download(server, tmp_path)
    assert files_in(tmp_path) == {tmp_path / HR_ZIP}


def test_other_files_beside_the_photos_are_left_out(server, tmp_path):
    files = {f"{HR}/{name}": png(48, name) for name in HR_NAMES}
    publish(
        server, HR, zip_of({f"{HR}/": b"", **files, f"{HR}/Thumbs.db": b"", f"{HR}/._1.png": b""})
    )
    assert_complete(tmp_path, download(server, tmp_path))


def test_half_unpacked_folder_that_a_killed_process_left_is_redone(server, tmp_path):
    for leftover in f".{HR}.unpacking", "DIV2K_train_LR_bicubic/.X4.unpacking":
        (tmp_path / leftover).mkdir(parents=True)
        (tmp_path / leftover / "0009.png").write_bytes(b"half")
    assert_complete(tmp_path, download(server, tmp_path))
