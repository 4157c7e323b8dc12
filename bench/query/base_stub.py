"""`python -m bench.query.base_stub PORT SECONDS`: an OpenAI-compatible endpoint that sleeps. Its answer has the Unix times of begin and end of the call."""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web


async def complete(request: web.Request) -> web.Response:
    began = time.time()
    await request.read()
    await asyncio.sleep(request.app[SECONDS])
    message = {"role": "assistant", "content": f"{began:.6f} {time.time():.6f}"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return web.json_response({"id": "stub", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice], "usage": usage})


SECONDS = web.AppKey("seconds", float)


def main() -> int:
    app = web.Application()
    app[SECONDS] = float(sys.argv[2])
    app.add_routes([web.post("/v1/chat/completions", complete)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
