"""Pictures from the web, into memory: of bounded size, in bounded time."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
import urllib.response
from http.client import HTTPException
from urllib.parse import urlsplit

from yoloquant.errors import DataError

# Bytes of a picture; seconds without an answer, and for the whole of it.
LARGEST, PATIENCE, LONGEST = 64 << 20, 10.0, 60.0
_PIECE = 1 << 16


def shown_address(address: str) -> str:
    """An address as messages and files may show it: without name, password and query, which are for the server alone."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise DataError(f"an address is malformed ({error}): correct it") from error
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def is_picture(address: str) -> bool:
    """Whether a server says that it sends a picture, and not a stream.

    Raises:
        DataError: It does not respond.
    """
    with _opened(address) as answer:
        return str(answer.headers.get_content_type()).startswith("image/")


def download(address: str) -> bytes:
    """What a server sends.

    Args:
        address: Address of `http` or `https`.

    Raises:
        DataError: It does not respond in time, or sends more than `LARGEST` bytes.
    """
    deadline = time.monotonic() + LONGEST
    content = bytearray()
    with _opened(address) as answer:
        try:
            while piece := answer.read(_PIECE):
                content += piece
                if len(content) > LARGEST:
                    raise DataError(f"{shown_address(address)} sends more than {LARGEST >> 20} MiB, more than a picture has")
                if time.monotonic() > deadline:
                    raise DataError(f"{shown_address(address)} takes more than {LONGEST:.0f} seconds: download it first")
        except (OSError, HTTPException) as error:
            raise _unreachable(address, error) from error
    return bytes(content)


def _opened(address: str) -> urllib.response.addinfourl:
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "yoloquant"})
        opened: urllib.response.addinfourl = urllib.request.urlopen(request, timeout=PATIENCE)
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(address, error) from error
    return opened


def _unreachable(address: str, error: Exception) -> DataError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        reason = f"{error.code} {error.reason}"
    return DataError(f"{shown_address(address)} cannot be read ({str(reason) or type(error).__name__}): check the address")
