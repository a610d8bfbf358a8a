"""The API server of Kubeflow Pipelines as the KFP SDK reaches it, made dependable.

The SDK sets no time limits, repeats no failed request, and passes on errors as they come. Works
with kfp 2.4 and with 2.14 or newer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp import client as kfp_client

from schemas.errors import RankerError

_TIMEOUT = (10.0, 120.0)
"""Seconds to connect, and to wait for bytes of the answer."""
_ATTEMPTS = 6
_FIRST_DELAY = 1.0
_PAGE_SIZE = 100
_TOO_MANY_REQUESTS = 429
_CONFLICT = 409
_NOT_FOUND = 404
_EQUALS = 1
"""The number of `EQUALS` among the operations of the server's filters."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Connection:
    """How to reach the API server.

    Attributes:
        host: its URL. If None, the SDK looks for one: in the cluster that it runs in, or
            through the cluster of the current kubectl context.
        namespace: the user's namespace where Kubeflow has several users, else None.
        token: bearer token; if None, the token that a pod's volume holds, if there is one.
        ca_cert: file of the certificates to trust, in place of the usual ones.
    """

    host: str | None = None
    namespace: str | None = None
    token: str | None = None
    ca_cert: str | None = None


class _OfflineClient(kfp_client.Client):
    """The SDK's client, but for a request that its constructor makes.

    That one, without a time limit and tried five times, is to find out whether there are several
    users, and then to guess the namespace; here it is given.
    """

    def get_kfp_healthz(self, sleep_duration: int = 5) -> kfp_server_api.V2beta1GetHealthzResponse:
        del sleep_duration
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)


def connect(connection: Connection, sleep: Callable[[float], None]) -> Server:
    """Makes the SDK's client, whose requests end after a while; sends nothing yet.

    Args:
        connection: how to reach the server.
        sleep: waits that many seconds.

    Raises:
        RankerError: no host, and none that the SDK finds; or a namespace or a token without one.
    """
    if connection.host is None and (connection.namespace or connection.token):
        raise RankerError("a namespace or a token was given, but no host; give --host, too")
    credentials = None
    if connection.token is None and os.path.exists(_projected_token()):
        credentials = kfp_client.ServiceAccountTokenVolumeCredentials()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        client = _OfflineClient(
            host=connection.host,
            namespace=connection.namespace or "kubeflow",
            existing_token=connection.token,
            credentials=credentials,
            ssl_ca_cert=connection.ca_cert,
        )
    found = client._run_api.api_client.configuration.host
    if connection.host is None and found == kfp_server_api.Configuration().host:
        raise RankerError(
            "no host was given, and neither a cluster that this runs in nor a kubectl context was "
            "found; give --host, or set KF_PIPELINES_ENDPOINT"
        )
    rest = client._run_api.api_client.rest_client
    unlimited = rest.request

    def request(*args: Any, **kwargs: Any) -> Any:
        return unlimited(*args, **{**kwargs, "_request_timeout": _TIMEOUT})

    rest.request = request
    return Server(client, connection.namespace, sleep)


def _projected_token() -> str:
    return os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", "/var/run/secrets/kubeflow/pipelines/token")


class Server:
    """The SDK's client with retries, pages and errors for people.

    Args:
        client: the SDK's; see `connect`.
        namespace: the user's namespace, or None.
        sleep: waits.
    """

    def __init__(
        self, client: kfp_client.Client, namespace: str | None, sleep: Callable[[float], None]
    ) -> None:
        self.client = client
        self.namespace = namespace
        self.sleep = sleep

    def pages(self, field: str, fetch: Callable[..., Any], **where: Any) -> Iterator[Any]:
        """Yields the items of every page of a listing.

        Args:
            field: of the answer, where the items are.
            fetch: of the SDK; takes `page_token`, `page_size` and what is in `where`.
            **where: what is listed.

        Raises:
            RankerError: as `call`.
        """
        token = ""
        while True:
            page = functools.partial(fetch, page_token=token, page_size=_PAGE_SIZE, **where)
            response = self.call(f"listing {field.replace('_', ' ')}", page)
            yield from getattr(response, field) or ()
            token = response.next_page_token
            if not token:
                return

    def find(self, name: str, field: str, fetch: Callable[..., Any], **where: Any) -> list[Any]:
        """Returns the items of a listing that have this name.

        Args:
            name: of each; its case counts, which it does not on every server.
            field: as in `pages`.
            fetch: as in `pages`; takes `filter`, too.
            **where: as in `pages`.

        Raises:
            RankerError: as `call`.
        """
        predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
        only = json.dumps({"predicates": [predicate]})
        found = self.pages(field, fetch, filter=only, **where)
        return [item for item in found if item.display_name == name]

    def call(
        self, what: str, call: Callable[[], _T], done: Callable[[], _T | None] | None = None
    ) -> _T:
        """Calls until the server answers.

        Args:
            what: what the call does, for messages.
            call: the request.
            done: for a request that must not be repeated blindly: looks for its result, which
                it may have although the answer got lost.

        Raises:
            RankerError: the server refused the request, or does not answer.
        """
        failure = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self.sleep(_FIRST_DELAY * 2 ** (attempt - 1))
                found = done() if done is not None else None
                if found is not None:
                    return found
            try:
                # The SDK prints links.
                with contextlib.redirect_stdout(io.StringIO()):
                    return call()
            except kfp_server_api.ApiException as error:
                if error.status < 500 and error.status != _TOO_MANY_REQUESTS:
                    # There already, or gone already: urllib3 repeats what it takes for harmless.
                    lost = done is not None and error.status in (_CONFLICT, _NOT_FOUND)
                    found = done() if done is not None and lost else None
                    if found is not None:
                        return found
                    raise RankerError(f"{what}: {_refusal(error)}") from error
                failure = _refusal(error)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                failure = f"{type(error).__name__}: {error}"
        raise RankerError(
            f"{what}: the server did not do it in {_ATTEMPTS} attempts; call this again later. "
            f"Last answer: {failure}"
        )


def _refusal(error: kfp_server_api.ApiException) -> str:
    """The server's own message; its forms are those of gRPC's gateway and of the upload."""
    message = str(error.body or error.reason)
    with contextlib.suppress(ValueError):
        body = json.loads(message)
        if isinstance(body, dict):
            short = [item.get("error_message") for item in body.get("details") or ()]
            message = next(
                filter(None, [*short, body.get("error_message"), body.get("message")]), message
            )
    hint = ""
    if error.status in (401, 403):
        hint = " (check the token, KFP_TOKEN, and the namespace)"
    status = f"HTTP {error.status}: " if error.status else ""
    return f"{status}{message.strip()}{hint}"
