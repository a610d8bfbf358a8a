import datetime
import http.server
import json
import sys
import threading
import time

import pytest
from planted_runs import Store

from components import serving_store
from pipeline import lineage, notify
from pipeline.kubeflow import entrypoint
from pipeline.workspace import Workspace
from schemas.loading import load_spec

NOTICE = notify.Notice("blocked", "2026-01-03", {"reason": "click: auc is 0.51"})


class Receiver(http.server.ThreadingHTTPServer):
    """An HTTP server on this machine that keeps what it is sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.answers = [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook?token=secret"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(notify, "_WAIT_SECONDS", 0.01)
    for name in (notify.URL_VARIABLE, notify.COMMAND_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(notify.logging, "warning", lambda text, *rest: said.append(text % rest))
    return said


def test_webhook_gets_a_cloud_event_in_structured_mode(receiver, warnings):
    notify.send([NOTICE], "/steadyrank/demo", {notify.URL_VARIABLE: receiver.url})
    ((path, content_type, event),) = receiver.requests
    assert path == "/hook?token=secret"
    assert content_type.startswith("application/cloudevents+json")
    # CloudEvents 1.0: id, source, specversion and type are required; time is RFC 3339.
    assert event["specversion"] == "1.0"
    assert event["id"]
    assert (event["source"], event["type"]) == ("/steadyrank/demo", "io.steadyrank.day.blocked")
    assert event["subject"] == "2026-01-03"
    assert datetime.datetime.fromisoformat(event["time"]).tzinfo is not None
    assert event["data"] == {"reason": "click: auc is 0.51"}
    assert warnings == []


def test_every_event_has_an_id_of_its_own_and_no_empty_attribute():
    events = [notify.Notice("failed", "", {}).cloud_event("/s") for _ in range(2)]
    assert events[0]["id"] != events[1]["id"]
    assert "subject" not in events[0].get_attributes()


@pytest.mark.parametrize(
    ("answers", "tries", "lost"),
    [
        ([503, 500], 3, False),
        ([429], 2, False),
        ([500, 500, 500], 3, True),
        ([404], 1, True),
        ([401], 1, True),
    ],
)
def test_webhook_is_tried_again_where_that_may_help(receiver, warnings, answers, tries, lost):
    receiver.answers = list(answers)
    notify.send([NOTICE], "/s", {notify.URL_VARIABLE: receiver.url})
    assert len(receiver.requests) == tries
    assert bool(warnings) == lost
    assert not any("secret" in text for text in warnings)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/secret",
        "file:///etc/secret",
        "http://[secret",
        "secret",
        "http://nowhere.invalid/secret",
    ],
)
def test_address_that_leads_nowhere_is_a_warning_that_does_not_repeat_it(warnings, url):
    notify.send([NOTICE], "/s", {notify.URL_VARIABLE: url})
    (text,) = warnings
    assert "not delivered" in text
    assert "secret" not in text


def test_server_that_does_not_answer_does_not_block(warnings, monkeypatch):
    import socket

    monkeypatch.setattr(notify, "_HTTP_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        notify.send([NOTICE], "/s", {notify.URL_VARIABLE: url})
    assert time.monotonic() - began < 5.0
    assert len(warnings) == 1


def test_command_gets_the_event_on_its_standard_input(tmp_path, warnings):
    script = tmp_path / "a tool.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
    command = f"{sys.executable} '{script}' '{tmp_path / 'out'}'"
    notify.send([NOTICE], "/s", {notify.COMMAND_VARIABLE: command})
    assert json.loads((tmp_path / "out").read_text())["data"] == NOTICE.data
    assert warnings == []


@pytest.mark.parametrize(
    "command", ["false --token secret", "/no/such/secret", "echo 'secret", "  "]
)
def test_command_that_fails_is_a_warning_that_does_not_repeat_it(warnings, command):
    notify.send([NOTICE], "/s", {notify.COMMAND_VARIABLE: command})
    (text,) = warnings
    assert "secret" not in text


def test_command_that_hangs_is_ended(warnings, monkeypatch):
    monkeypatch.setattr(notify, "_COMMAND_SECONDS", 0.2)
    began = time.monotonic()
    notify.send([NOTICE], "/s", {notify.COMMAND_VARIABLE: "sleep 60"})
    assert time.monotonic() - began < 10.0
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("outcome", "before", "notes", "age", "kinds"),
    [
        ("pushed", "", [], 0, ["pushed"]),
        ("pushed", "pushed", [], 0, ["pushed"]),
        ("pushed", "blocked", [], 0, ["pushed", "recovered"]),
        ("pushed", "failed", [], 0, ["pushed", "recovered"]),
        ("blocked", "blocked", [], 3, ["blocked"]),
        ("blocked", "pushed", [], 4, ["blocked", "old"]),
        ("failed", "pushed", [], None, ["failed"]),
        ("pushed", "pushed", ["X: 2026-01-02: held, not trained on"], 0, ["pushed", "held"]),
    ],
)
def test_kinds_of_what_there_is_to_tell(outcome, before, notes, age, kinds):
    told = notify.notices_of(
        outcome, "2026-01-04", {}, before=before, notes=notes, served_age_days=age, max_age_days=3
    )
    assert [notice.kind for notice in told] == kinds


def test_age_without_a_limit_is_no_news():
    told = notify.notices_of("failed", "", {}, before="", served_age_days=99, max_age_days=None)
    assert [notice.kind for notice in told] == ["failed"]


@pytest.fixture
def sent(monkeypatch):
    notices = []
    monkeypatch.setenv(notify.COMMAND_VARIABLE, "true")
    monkeypatch.setattr(notify, "send", lambda some, source: notices.extend(some))
    return notices


def test_day_of_a_workspace_is_told_with_its_reason_and_what_is_served(tmp_path, sent):
    space = Workspace(str(tmp_path))
    store = Store(space.metadata_path)
    store.run("r1", "2026-01-03", version=1)
    store.run("r2", "2026-01-08", end="blocked", reasons="bad")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    day = datetime.date(2026, 1, 3)
    info = serving_store.ModelInfo(day, day, "m", "t", "model/r1")
    serving_store.push(str(tmp_path / "model"), space.serving, info, 2, served_before=None)
    run = lineage.newest_run(lineage.open_store(space.metadata_path))
    spec = load_spec("schemas/demo.yaml")
    notify.after_day(space, spec, "2026-01-08", run, "bad")
    assert [notice.kind for notice in sent] == ["blocked", "old"]
    assert sent[0].data["served_version"] == 1
    assert sent[0].data["reason"] == "bad"
    assert sent[1].data == {"served_age_days": 5}


@pytest.mark.parametrize("broken", ["metadata.sqlite", "serving/1/saved_model.pb"])
def test_day_is_told_even_where_the_workspace_is_broken(tmp_path, sent, broken):
    (tmp_path / broken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / broken).write_text("no such thing")
    spec = load_spec("schemas/demo.yaml")
    notify.after_day(Workspace(str(tmp_path)), spec, "2026-01-08", None, "disk full")
    assert [(notice.kind, notice.data["reason"]) for notice in sent] == [("failed", "disk full")]


def _artifact(**metadata):
    return {"artifacts": [{"metadata": metadata}]}


@pytest.mark.parametrize(
    ("pushed", "kind"),
    [({"pushed": 1.0, "pushed_version": "7"}, "pushed"), ({"pushed": 0.0}, "blocked")],
)
def test_last_step_on_kubeflow_tells_how_the_day_ended(sent, pushed, kind):
    inputs = {
        "plan": _artifact(run_date="2026-01-03"),
        "model_blessing": _artifact(reasons="click: auc"),
        "examples": _artifact(notes="2026-01-02: held, not trained on"),
    }
    given = {"inputs": {"artifacts": inputs}}
    entrypoint._tell_end_of_day(given, {"artifacts": {"pushed_model": _artifact(**pushed)}})
    assert [notice.kind for notice in sent] == [kind, "held"]
    assert sent[0].run_date == "2026-01-03"


def test_last_step_on_kubeflow_does_not_fail_on_what_it_cannot_read(capsys):
    entrypoint._tell_end_of_day({"inputs": None}, {})
    assert "no notification" in capsys.readouterr().err
