"""An API server of Kubeflow Pipelines in memory, behind real HTTP on a free port.

Paths, parameters and fields are those of the OpenAPI definitions in kubeflow/pipelines,
backend/api/v2beta1/swagger (run, recurring_run, experiment, pipeline and pipeline.upload);
whatever they do not name is refused. What goes out is held against the SDK's own models. The
schedule follows backend/src/crd/controller/scheduledworkflow: a recurring run takes the last time
since its last one, or since its start time or creation, that it has missed (`no_catchup`), unless
it is disabled or as many of its runs are under way as it may have; it is looked at twice a minute,
and when it is changed. Time stands still but for `advance`.
"""

import base64
import contextlib
import datetime
import json
import re
import threading
import uuid
from http.server import ThreadingHTTPServer

from fake_kfp_http import ROOT, Handler
from fake_kfp_requests import EXPERIMENT, RECURRING_RUN, RUN, RefusedError, checked, uploaded

PAGE = ("page_token", "page_size", "sort_by", "filter", "namespace")
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
# Of backend/src/apiserver/model: what a filter may name.
FILTERS = ("display_name", "name", "description", "created_at")


class FakeKfp:
    """The server's state; `outcomes` and `durations` (seconds) of runs are by their run date."""

    def __init__(self, *, token=None, several_users=False):
        self.token, self.several_users = token, several_users
        self.now = datetime.datetime(2026, 1, 10, 12, tzinfo=datetime.timezone.utc)
        self.pipelines, self.versions, self.experiments = {}, {}, {}
        self.runs, self.schedules = {}, {}
        self.uploads = []
        self.requests = []
        self.faults = []
        self.outcomes, self.durations = {}, {}
        self.most_at_once = 0
        self.on_request = lambda line: None
        self.lock = threading.RLock()
        handler = type("Handler", (Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @contextlib.contextmanager
    def serving(self):
        thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    # Time.

    def advance(self, seconds):
        """Lets time go by."""
        with self.lock:
            end = self.now + datetime.timedelta(seconds=seconds)
            while self.now < end:
                before, self.now = self.now, min(end, self.now + datetime.timedelta(seconds=5))
                self._progress()
                if before.timestamp() // 30 != self.now.timestamp() // 30:
                    self._trigger()

    def _progress(self):
        for run in self.runs.values():
            age = (self.now - run["created_at"]).total_seconds()
            day = run["runtime_config"]["parameters"].get("run_date", "")
            if run["state"] not in ENDED:
                run["state"] = "RUNNING"
                if age >= self.durations.get(day, 60):
                    run["state"] = self.outcomes.get(day, "SUCCEEDED")
                    run["finished_at"] = self.now
                    if run["state"] == "FAILED":
                        run["error"] = {"code": 2, "message": "step Trainer failed"}

    def _trigger(self):
        for schedule in list(self.schedules.values()):
            own = [r for r in self.runs.values() if r.get("recurring_run_id") == schedule["id"]]
            active = sum(run["state"] not in ENDED for run in own)
            due = self._last_due(schedule)
            if due and schedule["status"] == "ENABLED" and active < schedule["max_concurrency"]:
                schedule["last"] = due
                self._add_run(
                    {**schedule["body"], "display_name": f"{schedule['id'][:8]}-{len(own) + 1}"},
                    recurring_run_id=schedule["id"],
                    scheduled_at=due,
                )

    def _last_due(self, schedule):
        second, minute, hour, *rest = schedule["body"]["trigger"]["cron_schedule"]["cron"].split()
        assert rest == ["*", "*", "*"], "the stand-in knows daily schedules only"
        due = self.now.replace(hour=int(hour), minute=int(minute), second=int(second))
        if due > self.now:
            due -= datetime.timedelta(days=1)
        start = schedule["body"]["trigger"]["cron_schedule"].get("start_time")
        start = _time(start) if start else None
        base = schedule["last"] or start or schedule["created_at"]
        return due if due > max(base, start or base) else None

    def under_way(self):
        return [run for run in self.runs.values() if run["state"] not in ENDED]

    def days(self):
        """Run dates in the order in which their runs were made."""
        return [r["runtime_config"]["parameters"].get("run_date", "") for r in self.runs.values()]

    # Routes: method, path, parameters of the query, what carries it out.

    def routes(self):
        one = "([^/:]+)"
        return [
            ("POST", "/pipelines/upload", ("name", "description", "namespace"), self.new_pipeline),
            (
                "POST",
                "/pipelines/upload_version",
                ("name", "description", "pipelineid"),
                self.new_version,
            ),
            ("GET", "/pipelines", PAGE, self.list_pipelines),
            ("GET", f"/pipelines/{one}/versions", PAGE, self.list_versions),
            ("GET", "/experiments", PAGE, self.list_experiments),
            ("POST", "/experiments", (), self.new_experiment),
            ("GET", "/runs", (*PAGE, "experiment_id"), self.list_runs),
            ("POST", "/runs", ("experiment_id",), self.new_run),
            ("GET", f"/runs/{one}", ("experiment_id",), self.get_run),
            ("GET", "/recurringruns", (*PAGE, "experiment_id"), self.list_schedules),
            ("POST", "/recurringruns", (), self.new_schedule),
            ("DELETE", f"/recurringruns/{one}", (), self.delete_schedule),
            ("POST", f"/recurringruns/{one}:(enable|disable)", (), self.change_schedule),
        ]

    def answer(self, method, path, query, headers, body):
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Unauthenticated: request header error: there is no user", 16)
        for verb, pattern, allowed, handle in self.routes():
            match = re.fullmatch(re.escape(ROOT) + pattern, path)
            if verb == method and match:
                unknown = set(query) - set(allowed)
                if unknown:
                    raise RefusedError(400, f"unknown query parameter {unknown.pop()}")
                return handle(*match.groups(), query=query, headers=headers, body=body)
        raise RefusedError(404, "Not Found", 5)

    # Pipelines.

    def new_pipeline(self, query, headers, body):
        self._check_namespace(query.get("namespace", ""))
        package = uploaded(headers, body)
        name = query["name"]
        if any(item["display_name"] == name for item in self.pipelines.values()):
            raise RefusedError(409, "Failed to create a pipeline and a pipeline version", 6)
        pipeline = {
            "pipeline_id": _id(),
            "display_name": name,
            "created_at": self.now,
            "namespace": query.get("namespace", ""),
        }
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        self._add_version(pipeline["pipeline_id"], name, package)
        return "V2beta1Pipeline", pipeline

    def new_version(self, query, headers, body):
        package = uploaded(headers, body)
        pipeline_id, name = query["pipelineid"], query["name"]
        if pipeline_id not in self.pipelines:
            raise RefusedError(400, "Failed to create a pipeline version", 5)
        if any(v["display_name"] == name for v in self._versions(pipeline_id)):
            raise RefusedError(409, "Failed to create a pipeline version", 6)
        return "V2beta1PipelineVersion", self._add_version(pipeline_id, name, package)

    def _versions(self, pipeline_id):
        return [v for v in self.versions.values() if v["pipeline_id"] == pipeline_id]

    def _add_version(self, pipeline_id, name, package):
        version = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": _id(),
            "display_name": name,
            "created_at": self.now,
        }
        self.versions[version["pipeline_version_id"]] = version
        self.uploads.append((name, package))
        return version

    def list_pipelines(self, query, **_):
        self._check_namespace(query.get("namespace", ""))
        return self._page(
            self.pipelines.values(), query, "pipelines", "V2beta1ListPipelinesResponse"
        )

    def list_versions(self, pipeline_id, query, **_):
        return self._page(
            self._versions(pipeline_id),
            query,
            "pipeline_versions",
            "V2beta1ListPipelineVersionsResponse",
        )

    # Experiments.

    def list_experiments(self, query, **_):
        self._check_namespace(query.get("namespace", ""))
        return self._page(
            self.experiments.values(), query, "experiments", "V2beta1ListExperimentsResponse"
        )

    def new_experiment(self, query, headers, body):
        content = checked(body, EXPERIMENT)
        self._check_namespace(content.get("namespace", ""))
        if any(e["display_name"] == content["display_name"] for e in self.experiments.values()):
            raise RefusedError(409, f"experiment {content['display_name']} already exists", 6)
        experiment = {
            "experiment_id": _id(),
            "display_name": content["display_name"],
            "created_at": self.now,
            "namespace": content.get("namespace", ""),
            "storage_state": "AVAILABLE",
        }
        self.experiments[experiment["experiment_id"]] = experiment
        return "V2beta1Experiment", experiment

    # Runs.

    def new_run(self, query, headers, body):
        content = checked(body, RUN)
        self._check_version(content)
        return "V2beta1Run", self._add_run(content)

    def _add_run(self, content, **more):
        run = {
            "run_id": _id(),
            "experiment_id": content["experiment_id"],
            "display_name": content["display_name"],
            "storage_state": "AVAILABLE",
            "pipeline_version_reference": content["pipeline_version_reference"],
            "runtime_config": {"parameters": {}, **content.get("runtime_config", {})},
            "service_account": content.get("service_account", "pipeline-runner"),
            "created_at": self.now,
            "scheduled_at": self.now,
            "state": "PENDING",
            **more,
        }
        self.runs[run["run_id"]] = run
        self.most_at_once = max(self.most_at_once, len(self.under_way()))
        return run

    def get_run(self, run_id, **_):
        if run_id not in self.runs:
            raise RefusedError(404, f"run {run_id} not found", 5)
        return "V2beta1Run", self.runs[run_id]

    def list_runs(self, query, **_):
        mine = [
            run
            for run in self.runs.values()
            if run["experiment_id"] == query.get("experiment_id", run["experiment_id"])
        ]
        return self._page(mine, query, "runs", "V2beta1ListRunsResponse")

    # Recurring runs.

    def new_schedule(self, query, headers, body):
        content = checked(body, RECURRING_RUN)
        self._check_version(content)
        cron = content["trigger"]["cron_schedule"]
        if cron.get("start_time"):
            cron["start_time"] = _time(cron["start_time"]).isoformat()
        if len(cron["cron"].split()) != 6:
            raise RefusedError(400, "Schedule cron is not a supported format")
        if not 1 <= int(content.get("max_concurrency", 0)) <= 10:
            raise RefusedError(400, "The max concurrency of the recurring run is out of range")
        schedule = {
            "id": _id(),
            "body": content,
            "created_at": self.now,
            "last": None,
            "max_concurrency": int(content["max_concurrency"]),
            "status": "ENABLED" if content.get("mode") == "ENABLE" else "DISABLED",
        }
        self.schedules[schedule["id"]] = schedule
        self._trigger()
        return "V2beta1RecurringRun", _public(schedule)

    def list_schedules(self, query, **_):
        mine = [
            _public(schedule)
            for schedule in self.schedules.values()
            if schedule["body"]["experiment_id"] == query.get("experiment_id")
        ]
        return self._page(mine, query, "recurringRuns", "V2beta1ListRecurringRunsResponse")

    def delete_schedule(self, schedule_id, **_):
        self._known(schedule_id)
        del self.schedules[schedule_id]
        # Its workflows belong to it, and go with it.
        for run in self.under_way():
            if run.get("recurring_run_id") == schedule_id:
                run["state"] = "FAILED"
        return "object", {}

    def change_schedule(self, schedule_id, change, **_):
        self._known(schedule_id)["status"] = f"{change.upper()}D"
        self._trigger()
        return "object", {}

    def _known(self, schedule_id):
        if schedule_id not in self.schedules:
            raise RefusedError(404, f"recurring run {schedule_id} not found", 5)
        return self.schedules[schedule_id]

    # What several of them need.

    def _check_version(self, content):
        reference = content.get("pipeline_version_reference", {})
        if reference.get("pipeline_version_id") not in self.versions:
            raise RefusedError(404, "pipeline version not found", 5)
        if content.get("experiment_id") not in self.experiments:
            raise RefusedError(404, "experiment not found", 5)

    def _check_namespace(self, namespace):
        if self.several_users and not namespace:
            raise RefusedError(400, "Invalid input error: a namespace is required")

    def _page(self, items, query, field, model):
        items = _filtered(list(items), query.get("filter", ""))
        order, _, direction = query.get("sort_by", "").partition(" ")
        if order not in ("", "created_at", "display_name"):
            raise RefusedError(400, f"Invalid sorting field: {order!r}")
        items.sort(key=lambda item: item[order or "created_at"], reverse=direction == "desc")
        size = int(query.get("page_size", 0) or 20)
        token = query.get("page_token", "")
        asked = {"sort_by": query.get("sort_by", ""), "filter": query.get("filter", "")}
        start = 0
        if token:
            known = json.loads(base64.b64decode(token))
            if known["asked"] != asked:
                raise RefusedError(400, "page token does not match the supplied sort by and filter")
            start = known["start"]
        answer = {field: items[start : start + size], "total_size": len(items)}
        if start + size < len(items):
            content = json.dumps({"start": start + size, "asked": asked})
            answer["next_page_token"] = base64.b64encode(content.encode()).decode()
        return model, answer


def _time(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def _id():
    return str(uuid.uuid4())


def _public(schedule):
    body = schedule["body"]
    return {
        "recurring_run_id": schedule["id"],
        "display_name": body["display_name"],
        "description": body.get("description", ""),
        "pipeline_version_reference": body["pipeline_version_reference"],
        "runtime_config": body["runtime_config"],
        "service_account": body.get("service_account", ""),
        "max_concurrency": str(schedule["max_concurrency"]),
        "trigger": body["trigger"],
        "mode": "ENABLE" if schedule["status"] == "ENABLED" else "DISABLE",
        "status": schedule["status"],
        "created_at": schedule["created_at"],
        "updated_at": schedule["created_at"],
        "no_catchup": body.get("no_catchup", False),
        "experiment_id": body["experiment_id"],
    }


def _filtered(items, text):
    if not text:
        return items
    for predicate in json.loads(text)["predicates"]:
        key, value = predicate["key"], predicate["stringValue"]
        if key not in FILTERS or predicate["operation"] not in (1, "EQUALS"):
            raise RefusedError(400, f"no support for filtering on {predicate}")
        key = "display_name" if key == "name" else key
        items = [item for item in items if item[key].lower() == value.lower()]
    return items
