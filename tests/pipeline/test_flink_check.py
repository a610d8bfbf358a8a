"""Beam's workers elsewhere are looked at before a run; a real pool, worker and job."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import NamedTuple

import pytest
from apache_beam.portability.api import beam_provision_api_pb2, endpoints_pb2
from google.protobuf import text_format
from tfx.utils import dependency_utils
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.flink import check
from pipeline.flink.settings import CLUSTER
from pipeline.flink.worker import environment
from schemas.errors import ExitCode, RankerError

PORTABLE = ("--runner=PortableRunner", "--job_endpoint=jobs:8099")


def test_options_of_a_portable_runner_keep_workers_and_side_inputs():
    args = check.with_defaults(PORTABLE)
    assert args[:2] == PORTABLE
    assert {arg.partition("=")[0] for arg in args[2:]} == {
        "--environment_cache_millis",
        "--max_cache_memory_usage_mb",
    }
    assert check.with_defaults(args) == args


@pytest.mark.parametrize(
    ("given", "packs"),
    [
        (("--environment_type=EXTERNAL",), False),
        (("--environment_type=PROCESS",), False),
        (("--environment_type=EXTERNAL", "--setup_file=/app/setup.py"), False),
        ((), True),
    ],
)
def test_tfx_packs_no_code_for_workers_that_have_it(given, packs, monkeypatch):
    monkeypatch.setattr(dependency_utils, "build_ephemeral_package", lambda: "packed")
    args = dependency_utils.make_beam_dependency_flags(
        list(check.with_defaults((*PORTABLE, *given)))
    )
    assert ("--extra_package=packed" in args) is packs


def test_options_that_are_given_stay():
    given = (*PORTABLE, "--environment_cache_millis=0", "--max_cache_memory_usage_mb=7")
    assert check.with_defaults(given) == given


@pytest.mark.parametrize("args", [(), ("--direct_running_mode=in_memory",), ("--runner", "Spark")])
def test_other_runners_are_left_alone(args, tmp_path):
    assert check.with_defaults(args) == args
    check.check_workers(args, str(tmp_path / "absent"))


def test_settings_of_ours_need_no_advice():
    assert check.advice(CLUSTER) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"restart-strategy.type": "none"}, "restart-strategy.type"),
        ({"restart-strategy.fixed-delay.attempts": "1"}, "lost worker is noticed after 50 s"),
        ({"restart-strategy.fixed-delay.delay": "500 ms"}, "tries end after 2 s"),
        ({"heartbeat.timeout": "100000"}, "noticed after 100 s"),
        ({"heartbeat.timeout": "2 min"}, "noticed after 120 s"),
        ({"classloader.resolve-order": "child-first"}, "classloader.resolve-order"),
        ({"taskmanager.network.sort-shuffle.min-buffers": "512"}, "min-buffers: 64"),
        ({"taskmanager.memory.network.max": "64mb"}, "memory.network.max: 128m"),
    ],
)
def test_setting_that_fails_runs_is_named(changed, named):
    (said,) = check.advice({**CLUSTER, **changed})
    assert named in said


@pytest.mark.parametrize(
    "changed",
    [
        {"restart-strategy.fixed-delay.delay": "1 min"},
        {"restart-strategy.fixed-delay.delay": "2 minutes"},
        {"restart-strategy.fixed-delay.delay": "1d"},
        {"restart-strategy.type": "exponential-delay"},
        {"taskmanager.memory.network.max": "1 gb"},
        {"taskmanager.memory.network.max": "268435456 bytes"},
    ],
)
def test_setting_that_is_as_good_needs_no_advice(changed):
    assert check.advice({**CLUSTER, **changed}) == []


def test_cluster_that_says_nothing_gets_all_advice():
    said = " ".join(check.advice({}))
    for name in ("restart-strategy.type", "classloader.resolve-order", "min-buffers", "memory"):
        assert name in said


@pytest.fixture
def job_manager():
    """A server that answers as Flink's REST does."""
    answer = [{"key": key, "value": value} for key, value in CLUSTER.items()]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/jobmanager/config"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", answer
    server.shutdown()
    server.server_close()


def test_cluster_is_asked_for_its_settings(job_manager):
    url, answer = job_manager
    assert check.check_cluster(url) == []
    answer[:] = [pair for pair in answer if not pair["key"].startswith("restart")]
    (said,) = check.check_cluster(url)
    assert "restart-strategy.type: fixed-delay" in said


def test_cluster_that_is_not_there_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RankerError, match=url):
        check.check_cluster(url)


def asked(folder):
    """The file that the sender leaves."""
    (folder / "token").touch()
    return str(folder / "token")


def test_worker_with_other_versions_is_named(tmp_path):
    token = asked(tmp_path)
    check.answer(3, token)
    check.check_answers(token, 1, check.versions())
    with pytest.raises(RankerError, match=r"apache-beam \S+ \(here 0\.1\)"):
        check.check_answers(token, 1, {**check.versions(), "apache-beam": "0.1"})
    with pytest.raises(RankerError, match=r"numpy none \(here 2\)"):
        check.check_answers(token, 1, {"numpy": "2"})


def test_worker_that_does_not_see_the_folder_is_named(tmp_path):
    token = asked(tmp_path)
    check.answer(0, token)
    check.answer(1, str(tmp_path / "elsewhere" / "token"))
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(RankerError, match=f"does not see {tmp_path}: mount it"):
        check.check_answers(token, 2, check.versions())


def test_worker_gets_the_options_of_the_job_and_its_addresses():
    info = beam_provision_api_pb2.ProvisionInfo(
        control_endpoint=endpoints_pb2.ApiServiceDescriptor(url="runner:1"),
        runner_capabilities=["beam:protocol:a:v1", "beam:protocol:b:v1"],
    )
    info.pipeline_options["beam:option:max_cache_memory_usage_mb:v1"] = "100"
    found = environment(info, "pool:2", "pool:3")
    addresses = {}
    for name in ("CONTROL", "LOGGING"):
        described = endpoints_pb2.ApiServiceDescriptor()
        text_format.Parse(found[f"{name}_API_SERVICE_DESCRIPTOR"], described)
        addresses[name] = described.url
    assert addresses == {"CONTROL": "runner:1", "LOGGING": "pool:3"}
    assert json.loads(found["PIPELINE_OPTIONS"]) == {
        "beam:option:max_cache_memory_usage_mb:v1": "100"
    }
    assert found["RUNNER_CAPABILITIES"].split() == list(info.runner_capabilities)
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Pool(NamedTuple):
    """A pool: its process, and the options of a job that it works for."""

    pid: int
    beam_args: tuple[str, ...]

    def living(self):
        """Ids of the processes that it has started and that have not ended."""
        threads = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        started = [child for task in threads for child in (task / "children").read_text().split()]
        stats = {child: pathlib.Path(f"/proc/{child}/stat").read_text() for child in started}
        return [child for child, stat in stats.items() if stat.rpartition(") ")[2][0] != "Z"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Beam options of a job whose workers a real pool starts; Beam's own runner gives the work."""
    port = free_port()
    log = tmp_path_factory.mktemp("pool") / "log"
    root = pathlib.Path(__file__).parents[2]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.flink.pool", f"--port={port}"],
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
    while True:
        assert process.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield Pool(
        process.pid,
        (
            "--runner=PortableRunner",
            "--job_endpoint=embed",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{port}",
        ),
    )
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.slow
def test_workers_end_with_their_job(pool, tmp_path):
    check.check_workers(pool.beam_args, str(tmp_path))
    end = time.monotonic() + 60
    while pool.living():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_worker_that_differs_stops_the_run_by_name(pool, tmp_path, monkeypatch):
    # The pool's processes import it anew.
    monkeypatch.setattr(check, "versions", lambda: {"tfx-bsl": "0.0.1"})
    with pytest.raises(RankerError, match=r"^a worker of Beam has tfx-bsl \S+ \(here"):
        check.check_workers(pool.beam_args, str(tmp_path))


# Beam's own runner, in this process, loses the connection.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_workers_that_never_answer_are_given_up(tmp_path):
    with socket.socket() as silent:
        # Takes connections and says nothing.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(RankerError, match="no worker of Beam answered within 2 s"):
            check.check_workers(
                (
                    "--runner=PortableRunner",
                    "--job_endpoint=embed",
                    "--environment_type=EXTERNAL",
                    f"--environment_config={address}",
                ),
                str(tmp_path),
                seconds=2,
            )
    assert not list(tmp_path.iterdir())


def invoke(*arguments):
    return CliRunner().invoke(app, ["workers", *map(str, arguments)])


def test_command_says_what_to_set(job_manager, tmp_path):
    url, answer = job_manager
    del answer[:]
    done = invoke("--flink", url, "--folder", tmp_path, *(f"--beam-arg={arg}" for arg in PORTABLE))
    assert done.exit_code == ExitCode.FAILED
    assert f"{url}: set restart-strategy.type: fixed-delay" in done.output


def test_command_says_where_there_is_nothing_to_look_at(tmp_path):
    done = invoke("--folder", tmp_path, "--beam-arg=--direct_running_mode=in_memory")
    assert done.exit_code == ExitCode.PUSHED
    assert "no workers elsewhere" in done.output


@pytest.mark.slow
def test_command_lets_the_workers_of_a_pool_answer_and_leaves_nothing(pool, tmp_path):
    folder = tmp_path / "new"
    done = invoke("--folder", folder, *(f"--beam-arg={arg}" for arg in pool.beam_args))
    assert done.exit_code == ExitCode.PUSHED, done.output
    assert "the workers answer" in done.output
    assert not list(folder.iterdir())
