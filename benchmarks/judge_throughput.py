"""Times the judge's client against the ideal time, alone and beside sampling; prints two lines.

    python benchmarks/judge_throughput.py [--repeat 3]

A local server in another process answers every question after 200 ms, so 512 comparisons in both orders over 32
connections take at least 1024 / 32 * 0.2 s = 6.4 s. The measured time covers everything: wording, hashes, the ledger,
connecting, requests, verdicts.

The second line times the same comparisons while a step is sampled in 16 batches of 0.4 s each (simulated by a sleep),
6.4 s in all. One after the other takes 12.8 s; the ideal is 6.8 s, because the last batch is judged after sampling.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARISONS, CONCURRENCY, DELAY = 512, 32, 0.2
IDEAL = 2 * COMPARISONS / CONCURRENCY * DELAY
BATCHES = 16
SAMPLING = IDEAL / BATCHES
"""Seconds per batch."""


async def serve() -> None:
    """Run an OpenAI-compatible server that always answers `1 = 2` and prints its port, until it is killed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "1 = 2"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 305}
    fields = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "usage": usage}
    body = json.dumps({**fields, "choices": [choice]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in request.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
            await asyncio.sleep(DELAY)
            writer.write(head + body)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def measure(port: int, batches: int = 0) -> float:
    """Return the seconds of all comparisons with an empty ledger; they become available in `batches`, or at once."""
    from grao.config.rewards import JudgeConfig
    from grao.rewards.judge.base import Pair
    from grao.rewards.judge.client import Endpoint
    from grao.rewards.judge.ledger import Ledger
    from grao.rewards.judge.server import ServerJudge
    from grao.rewards.judge.wording import load_template

    filler = "The harbour lies to the north of the town, and the ferry leaves at nine. " * 8
    pairs = [Pair(f"Question {i}?", f"{filler}{i}", f"{filler}{-i - 1}") for i in range(COMPARISONS)]
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint(JudgeConfig("judge", f"http://127.0.0.1:{port}/v1", concurrency=CONCURRENCY))
        judge = ServerJudge(endpoint, load_template("helpful"), Ledger(Path(folder, "ledger.sqlite")))
        judge.check()
        begin = time.perf_counter()
        for batch in range(batches):
            time.sleep(SAMPLING)
            judge.begin(pairs[batch::batches])
        verdicts = judge.compare(pairs)
        seconds = time.perf_counter() - begin
        if judge.tally.requests != 2 * COMPARISONS or {verdict.value for verdict in verdicts} != {0.0}:
            raise SystemExit(f"not every comparison was sent and answered: {judge.tally}")
        judge.ledger.close()
    return seconds


def main() -> None:
    """Start the server, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline()) if server.stdout else 0
        alone = [measure(port) for _ in range(arguments.repeat)]
        beside = [measure(port, BATCHES) for _ in range(arguments.repeat)]
    finally:
        server.kill()
        server.wait()
    best = IDEAL + SAMPLING
    print(
        f"{2 * COMPARISONS} questions, {CONCURRENCY} at once, {DELAY:g} s each: ideal {IDEAL:.1f} s; "
        f"ratio {', '.join(f'{seconds / IDEAL:.3f}' for seconds in alone)}"
    )
    print(
        f"the same while {BATCHES} batches of {SAMPLING:g} s are sampled: ideal {best:.1f} s, one after the other "
        f"{2 * IDEAL:.1f} s; ratio {', '.join(f'{seconds / best:.3f}' for seconds in beside)}"
    )


if __name__ == "__main__":
    main()
