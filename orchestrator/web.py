"""HTTP downloads and webhooks, by the standard library's client: the only importer of ``urllib.request``, but for
`probe.trackercheck`, which is sent to machines where nothing is installed.

The standard library's, because it is there with no dependency more, takes proxies from the environment, and both uses
are one request each: a library's pools and sessions would have nothing to do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from orchestrator import __version__

_PATIENCE_SECONDS = 30.0  # without a byte
_PARTIAL, _OUT_OF_RANGE = 206, 416


class NoAnswer(Exception):
    """A server could not be reached, refused, or broke off; says which and why, and no more of the URL than that.

    ``again`` is whether trying again may help.
    """

    def __init__(self, url: str, reason: str, again: bool) -> None:
        super().__init__(f"{urlsplit(url).hostname}: {reason}")
        self.again = again


class PastTheEnd(NoAnswer):
    """There is nothing at the URL from the byte on that was asked for."""


@dataclass
class Body:
    """What a server sends, from byte ``start`` of ``size``, where it says how many there are."""

    url: str
    start: int
    size: int | None
    _response: Any

    def read(self, most: int) -> bytes:
        """The next bytes, or none at the end. Raises `NoAnswer` when the connection breaks."""
        with _named(self.url):
            chunk: bytes = self._response.read(most)
        return chunk


@contextlib.contextmanager
def get(url: str, start: int = 0) -> Iterator[Body]:
    """Ask for what is at a URL, from a byte on. A server that does not know how begins at 0: see `Body.start`.

    Raises `NoAnswer`, and `PastTheEnd` when there are not as many bytes.
    """
    headers = {"User-Agent": f"orchestrator/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _named(url):
        response = _open(urllib.request.Request(_checked(url), headers=headers))  # noqa: S310 - http(s), checked
    with response:
        begins, size = 0, _number(response.headers.get("Content-Length"))
        if response.status == _PARTIAL:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise NoAnswer(url, "it sends another part than was asked for", again=False)
            begins, size = int(found[1]), _number(found[2])
        yield Body(url, begins, size, response)


def post(url: str, content: Mapping[str, Any], seconds: float) -> None:
    """Send JSON to a webhook. Raises `NoAnswer` unless it is accepted."""
    headers = {"User-Agent": f"orchestrator/{__version__}", "Content-Type": "application/json"}
    data = json.dumps(content).encode()
    with _named(url):
        request = urllib.request.Request(_checked(url), data, headers)  # noqa: S310 - http(s), checked
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds):
            pass  # what it says does not matter: another status than 2xx raises


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET with nothing in it."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _open(request: urllib.request.Request) -> Any:
    return urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS)  # noqa: S310 - http(s), checked


def _checked(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https can be asked")
    return url


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Whatever is raised in here becomes a `NoAnswer`; where an address is wrong, without repeating it."""
    try:
        yield
    except urllib.error.HTTPError as error:
        kind = PastTheEnd if error.code == _OUT_OF_RANGE else NoAnswer
        raise kind(url, f"it answers {error.code} {error.reason}", again=error.code >= 500) from None
    except urllib.error.URLError as error:
        raise NoAnswer(url, _reason(error.reason), again=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(url, _reason(error), again=True) from None
    except ValueError:
        raise NoAnswer(url, "no such URL can be asked", again=False) from None


def _reason(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
