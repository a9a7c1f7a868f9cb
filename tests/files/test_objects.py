"""Objects in buckets: requests, retries, and one sentence for each way in which a bucket fails."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from featcache.errors import BucketError, ConfigError
from featcache.files.bucket import BucketFiles
from featcache.files.object_errors import explained
from featcache.files.objects import Objects, OtherSizeError, Span, is_url
from featcache.testing.s3_server import Fault, environment, s3_server

NO_RIGHTS = Fault("answer", 403, "AccessDenied")


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        running.make_bucket("lab")
        yield running


@pytest.fixture
def objects(server, request, monkeypatch):
    monkeypatch.setattr("featcache.files.objects._FIRST_PAUSE", 0.01)
    server.requests.clear()
    server.fault = lambda _: None
    yield Objects(f"s3://lab/{request.node.name.replace('[', '-').replace(']', '')}/a b")
    server.fault = lambda _: None


def only(kind, *faults):
    """The first requests of a kind meet these faults, in order."""
    waiting = list(faults)
    return lambda request: waiting.pop(0) if request.method == kind and waiting else None


def test_what_was_put_is_found_listed_and_read(objects):
    assert objects.put("x/1", [b"one", b"", b"more"], create=True)
    assert objects.put("x/y/2", [b""], create=False)
    assert objects.put("3", [b"3"], create=False)
    assert objects.get("x/1") == b"onemore"
    assert objects.get("x/y/2") == b""
    assert objects.get("none") is None
    assert objects.find("x/1").size == 7
    assert objects.find("x") is None
    assert objects.list() == (["x"], [objects.find("3")])
    assert objects.list("x") == (["y"], [objects.find("x/1")])
    assert objects.list("none") == ([], [])
    assert [one.name for one in objects.walk()] == ["3", "x/1", "x/y/2"]
    assert [one.name for one in objects.walk("x")] == ["x/1", "x/y/2"]
    objects.delete("x/1")
    objects.delete("x/1")
    assert [one.name for one in objects.walk()] == ["3", "x/y/2"]
    assert pickle.loads(pickle.dumps(objects)).get("3") == b"3"


def test_a_name_is_created_once(objects):
    assert objects.put("x", [b"first"], create=True)
    assert not objects.put("x", [b"second"], create=True)
    assert not objects.put("x", [b"first"], create=True)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: objects.put("y", [b"%d" % number], create=True), range(8)))
    assert won.count(True) == 1
    assert objects.get("y") == b"%d" % won.index(True)


def test_an_object_is_replaced_only_as_it_was_found(objects):
    objects.put("x", [b"first"], create=True)
    etag = objects.find("x").etag
    assert objects.put("x", [b"second"], create=False, etag=etag)
    assert not objects.put("x", [b"third"], create=False, etag=etag)
    assert objects.get("x") == b"second"


def test_parts_are_read_at_the_same_time(server, objects):
    data = bytes(range(256)) * 40
    objects.put("x", [data], create=True)
    objects.put("y", [data[::-1]], create=True)
    spans = [Span("xy"[number % 2], 7 * number, 7 * number + 5, len(data)) for number in range(60)]
    files = {"x": data, "y": data[::-1]}
    assert [bytes(part) for part in objects.fetch(spans)] == [files[s.name][s.start : s.stop] for s in spans]
    with pytest.raises(FileNotFoundError) as error:
        objects.fetch([Span("x", 0, 3, len(data)), Span("none", 0, 3, 9)])
    assert error.value.filename == "none"
    for span in (Span("x", 0, 3, 7), Span("x", len(data) + 7, len(data) + 9, len(data) + 99)):
        with pytest.raises(OtherSizeError) as error:
            objects.fetch([Span("y", 0, 3, len(data)), span])
        assert (error.value.name, error.value.size) == ("x", len(data))


def test_large_objects_are_read_in_parts(objects):
    data = os.urandom((8 << 20) + 12345)
    assert objects.put("x", [data[:100], data[100:]], create=True)
    assert objects.get("x") == data


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", 503, "SlowDown"),
        Fault("answer", 500, "InternalError"),
        Fault("answer", 429, "TooManyRequests"),
        Fault("answer", 409, "ConditionalRequestConflict"),
        Fault("cut_before"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_passes_is_tried_again(server, objects, fault):
    server.fault = only("PUT", fault, fault)
    assert objects.put("x", [b"data"], create=True)
    server.fault = only("PUT", fault)
    assert not objects.put("x", [b"other"], create=True)
    if fault.status != 409:
        server.fault = only("GET", fault, fault)
        assert objects.get("x") == b"data"
        server.fault = only("GET", fault, fault)
        assert objects.fetch([Span("x", 1, 3, 4)]) == [b"at"]
        server.fault = only("GET", fault, fault)
        assert objects.list()[1][0].name == "x"


@pytest.mark.parametrize("fault", [Fault("cut_after"), Fault("answer_after", 500, "InternalError")])
def test_a_write_whose_answer_was_lost_counts_if_its_bytes_are_there(server, objects, fault):
    server.fault = only("PUT", fault)
    assert objects.put("x", [b"mine", b"!"], create=True)
    objects.put("y", [b"theirs"], create=True)
    server.fault = only("PUT", fault)
    assert not objects.put("y", [b"mine!!"], create=True)
    assert objects.get("y") == b"theirs"


def refusal(call):
    with pytest.raises(BucketError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.find("x"),
        lambda o: o.get("x"),
        lambda o: o.list(),
        lambda o: list(o.walk()),
        lambda o: o.put("x", [b"1"], create=True),
        lambda o: o.fetch([Span("x", 0, 1, 1)]),
        lambda o: o.delete("x"),
    ],
    ids=["find", "get", "list", "walk", "put", "fetch", "delete"],
)
def test_each_call_says_why_it_fails(server, objects, call):
    server.fault = lambda _: NO_RIGHTS
    assert "refuses access" in refusal(lambda: call(objects))
    assert len(server.requests) == 1
    server.fault = lambda _: Fault("answer", 301, "PermanentRedirect")
    assert "set AWS_REGION" in refusal(lambda: call(objects))
    server.fault = lambda _: Fault("answer", 404, "NoSuchBucket")
    if "find" not in os.environ["PYTEST_CURRENT_TEST"]:  # the answer to HEAD has no code
        assert "there is no bucket 'lab'" in refusal(lambda: call(objects))


def test_a_server_that_never_answers_is_given_up_soon():
    with environment(
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    ):
        assert "cannot be reached" in refusal(lambda: Objects("s3://elsewhere/x").get("x"))


def test_objects_too_large_for_one_request_are_refused(objects, monkeypatch):
    monkeypatch.setattr("featcache.files.objects.MAX_PUT_BYTES", 10)
    assert "at most" in refusal(lambda: objects.put("x", [b"12345", b"678901"], create=True))


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://b/../c", "s3://b/a//c", "s3://b/x?y", "ftp://b/x", "/x", "s3:/b/x"]
)
def test_what_is_no_url_of_a_bucket_is_refused(url):
    assert not is_url(url) or url in {"s3://b/../c", "s3://b/a//c"}
    with pytest.raises(ConfigError, match="is not the URL of a bucket"):
        Objects(url)


def test_a_forked_process_is_refused(objects):
    objects.get("x")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            objects.get("x")
        except BucketError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert b"multiprocessing_context='spawn'" in os.read(read, 1000)
    os.close(read)


def test_a_server_that_ignores_conditions_is_refused(server, objects, monkeypatch):
    monkeypatch.setattr("featcache.files.objects._conditional", set())
    files = BucketFiles(objects)
    assert files.put_new("x", b"first")
    server.requests.clear()
    assert files.put_new("y", b"first")
    assert len(server.requests) == 1
    monkeypatch.setattr("featcache.files.objects._conditional", set())
    monkeypatch.setattr(server, "ignored", ("if-none-match",))
    assert "ignores conditional writes" in refusal(lambda: files.put_new("z", b"first"))


def test_a_missing_library_is_told(monkeypatch):
    for module in ("obstore", "obstore.store"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "run: pip install 'featcache[buckets]'" in refusal(lambda: Objects("s3://elsewhere/new").get("x"))


def test_missing_credentials_are_told():
    answer = "Error performing PUT http://169.254.169.254/latest/api/token in 8ms - HTTP error: error sending request"
    assert "there are no credentials for s3://b/x; set AWS_ACCESS_KEY_ID" in str(explained(OSError(answer), "s3://b/x"))


def test_a_process_ends_in_order_while_a_thread_still_asks(server, objects):
    script = (
        "import sys, threading, time; from featcache.files.objects import Objects\n"
        "objects = Objects(sys.argv[1]); objects.put('x', [b'1'], create=False)\n"
        "def ask():\n"
        "    while True: objects.get('x')\n"
        "[threading.Thread(target=ask, daemon=True).start() for _ in range(32)]; time.sleep(0.5)"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script, objects.url], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_another_endpoint_is_another_client():
    """What the environment says is read anew when it changes, also for a bucket of the same name."""
    for _ in range(2):
        with s3_server() as elsewhere:
            elsewhere.make_bucket("moved")
            assert Objects("s3://moved").find("nothing") is None
