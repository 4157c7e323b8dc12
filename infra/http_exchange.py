"""One HTTP request with one time limit for all of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


async def exchange(client: httpx.AsyncClient, method: str, url: str, *, within_s: float, max_bytes: int, **request: Any) -> tuple[int, bytes]:
    """Status and body. Closes `client`. `request` holds httpx's other arguments, such as `content` and `headers`.

    The limit also holds for a body that arrives byte by byte, for which httpx's own limits, of each read, never end. Reading stops beyond `max_bytes`, so a
    longer body is cut off. Raises TimeoutError, and what httpx raises.
    """
    async with asyncio.timeout(within_s), client, client.stream(method, url, **request) as response:
        body = b""
        async for part in response.aiter_bytes():
            body += part
            if len(body) > max_bytes:
                break
        return response.status_code, body
