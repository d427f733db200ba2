"""Takes secrets out of what is shown or written down.

>>> redacted("no answer from https://ann:hunter2@tracker.example/api")
'no answer from https://***@tracker.example/api'
>>> redacted_words(["run", "dogs", "params.hub_token=abc", "params.epochs=5"])
['run', 'dogs', 'params.hub_token=***', 'params.epochs=5']
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

HIDDEN = "***"
_NAMES = r"(?:password|passwd|secret|token|credentials?|webhook|(?:api|access|secret|private)_?key)"
_SECRET_NAME = re.compile(rf"{_NAMES}(?:_?(?:id|url))?$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/?#\s'\"]*@")  # up to the last @: people forget to write it as %40
_IN_QUERY = re.compile(rf"([?&;][\w.\-]*{_NAMES}=)[^&;#\s'\"]+", re.IGNORECASE)
_URL = re.compile(r"([a-z][a-z0-9+.\-]*://[^/?#\s'\"]*)([^\s'\"]*)", re.IGNORECASE)
_SHORTEST = 6  # a shorter value would be found in words that mean something else


def redacted(text: str) -> str:
    """The text without what logs in: of URLs, and the values of secrets in this process's environment."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_URL.sub(f"{HIDDEN}@", text))


def without_paths(text: str) -> str:
    """The text with the hosts of its URLs alone: what follows the host of a webhook lets anybody post there.

    >>> without_paths("curl -d x 'https://hooks.example.org/T0/B0/secret'; see http://example.org/")
    "curl -d x 'https://hooks.example.org/***'; see http://example.org/"
    """
    hosts = _URL.sub(lambda found: found[0] if found[2] in ("", "/") else f"{found[1]}/{HIDDEN}", text)
    return _IN_URL.sub(f"{HIDDEN}@", hosts)


def redacted_words(words: Sequence[str]) -> list[str]:
    """A command's words, without the values of ``key=value`` whose key names a secret."""
    return [redacted(_redacted_override(word)) for word in words]


def has_credentials(url: str) -> bool:
    """Whether a URL holds a password or a token. A database's user alone is neither."""
    who = _IN_URL.search(url)
    is_secret = who is not None and (":" in who.group() or url.lower().startswith("http"))
    return is_secret or bool(_IN_QUERY.search(url))


def _redacted_override(word: str) -> str:
    key, equals, value = word.partition("=")
    if equals and key == "notify":
        return f"notify={without_paths(value)}"
    return f"{key}={HIDDEN}" if equals and value and _SECRET_NAME.search(key) else word


def _secrets() -> list[str]:
    """Values of the environment's secrets, as they are and as a URL has them; the longest first."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return sorted((v for v in values | {unquote(v) for v in values} if len(v) >= _SHORTEST), key=len, reverse=True)
