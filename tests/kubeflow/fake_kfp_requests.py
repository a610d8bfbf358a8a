"""What requests to the API server of Kubeflow Pipelines may hold; the rest is refused.

The fields are those of the OpenAPI definitions in kubeflow/pipelines, backend/api/v2beta1/swagger.
"""

import email.parser
import json
import re

RUNTIME_CONFIG = {"parameters": dict, "pipeline_root": str}
REFERENCE = {"pipeline_id": str, "pipeline_version_id": str}
RUN = {
    "experiment_id": str,
    "display_name": str,
    "description": str,
    "pipeline_version_reference": REFERENCE,
    "pipeline_spec": dict,
    "runtime_config": RUNTIME_CONFIG,
    "service_account": str,
}
CRON = {"start_time": str, "end_time": str, "cron": str}
RECURRING_RUN = {
    **RUN,
    "max_concurrency": (str, int),
    "mode": ("MODE_UNSPECIFIED", "ENABLE", "DISABLE"),
    "no_catchup": bool,
    "trigger": {"cron_schedule": CRON},
}
EXPERIMENT = {"display_name": str, "description": str, "namespace": str}


class RefusedError(Exception):
    def __init__(self, status, message, code=3):
        super().__init__(message)
        self.status, self.code = status, code


def checked(body, definition):
    content = json.loads(body)
    _check(content, definition, "body")
    return content


def _check(value, definition, where):
    if isinstance(definition, dict):
        for key, item in value.items():
            if key not in definition:
                raise RefusedError(400, f'proto: unknown field "{key}" in {where}')
            _check(item, definition[key], f"{where}.{key}")
    elif isinstance(definition, tuple) and isinstance(definition[0], str):
        if value not in definition:
            raise RefusedError(400, f"invalid value for enum field {where}: {value!r}")
    elif not isinstance(value, definition):
        raise RefusedError(400, f"invalid value for {where}: {value!r}")


def uploaded(headers, body):
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    message = email.parser.BytesParser().parsebytes(head + body)
    for part in message.get_payload() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            if not re.search(r"\.(ya?ml|zip|tar\.gz|tgz)$", part.get_filename() or ""):
                raise RefusedError(400, "Failed to read a pipeline spec file")
            return part.get_payload(decode=True)
    raise RefusedError(400, "Failed to read pipeline from file")
