"""`grao watch`: the page follows a run that is written, and nothing else leaves its folder."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread

import pytest

from grao.cli.main import main
from grao.records.run import Manifest, MetricsLog, update_manifest, write_manifest
from grao.records.samples import Sample, SampledGroup, append_group
from grao.reports.live import LiveServer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write_manifest(folder, Manifest(status="running", steps=40, config={"method": {"name": "grao"}}))
    for step in range(1, 11):
        MetricsLog(folder).append({"step": step, "seconds": 3.0 * step, "loss": 1.0, "reward/mean": step / 10})
    (tmp_path / "secret.txt").write_text("nobody's business")
    (folder / "secret.txt").write_text("nobody's business")
    return folder


@pytest.fixture
def server(run: Path) -> Iterator[LiveServer]:
    with LiveServer(run, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: LiveServer, path: str = "/", host: str = "") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_page_follows_the_run(run: Path, server: LiveServer):
    answer, page = get(server)
    assert answer.status == 200
    assert answer.getheader("Refresh")
    assert "Running: step 10 of 40, about 1 min 30 s of training left." in page
    MetricsLog(run).append({"step": 20, "seconds": 60.0, "loss": 1.0})
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 21, "sec')  # in the middle of a line
    assert "step 20 of 40, about 1 min 0 s" in get(server)[1]
    update_manifest(run, status="interrupted")
    assert "The run is interrupted: 20 of 40 steps are done." in get(server)[1]
    update_manifest(run, status="finished")
    answer, page = get(server)
    assert answer.getheader("Refresh") is None
    assert "Running" not in page


def test_it_shows_what_was_sampled_last_and_what_was_paid(run: Path, server: LiveServer):
    for step in range(1, 6):
        texts = [f"<script>{step}</script>", f"answer {step}", "worst"]
        samples = [Sample(text, 3, False, 1 - number, 0.5 - number) for number, text in enumerate(texts)]
        append_group(run, SampledGroup("p1", f"prompt {step}", "the reference", step, samples, 0.25))
    with (run / "samples.jsonl").open("a") as lines:
        lines.write('{"id": "p')  # in the middle of a line
    MetricsLog(run).append({"step": 11, "seconds": 33.0, "judge_j/cost": 1.25})
    page = get(server)[1]
    assert "1.25 spent on judges" in page
    assert "<script>5" not in page
    assert page.index("prompt 5") < page.index("prompt 4") < page.index("prompt 3") < page.index("Training curves")
    assert "prompt 2" not in page
    assert "&lt;script&gt;5" in page
    assert "best of 3" in page
    assert "weight -1.5" in page.replace("\N{MINUS SIGN}", "-").replace("\N{NO-BREAK SPACE}", " ")
    assert page.count("is not finished") == 0  # it says how far it is instead


def test_what_cannot_be_read_is_said_until_it_can(run: Path, server: LiveServer):
    whole = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text('{"config": <script>')
    answer, page = get(server)
    assert answer.status == 200
    assert "manifest.json" in page
    assert "<script>" not in page
    (run / "manifest.json").write_text(whole)
    assert "Running" in get(server)[1]
    for name in ("manifest.json", "metrics.jsonl"):
        (run / name).unlink()
    assert "contains no manifest.json, metrics.jsonl or evaluation.json" in get(server)[1]


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt", "/manifest.json", "/../secret.txt", "/%2e%2e/secret.txt", "//secret.txt", "/./",
        "/?x=/../secret.txt", "http://127.0.0.1/secret.txt", "/..%2fsecret.txt", "\\\\secret.txt",
    ],
)  # fmt: skip
def test_nothing_but_the_page_is_served(path: str, server: LiveServer):
    answer, text = get(server, path)
    assert answer.status in (400, 404)
    assert "business" not in text


def test_it_is_for_this_machine_alone(run: Path, server: LiveServer, capsys: pytest.CaptureFixture[str]):
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, host="evil.example:80")[0].status == 403
    assert get(server, host=f"localhost:{server.server_port}")[0].status == 200
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["watch", str(run), "--port", str(taken.getsockname()[1])]) == 2
    assert "--port: " in capsys.readouterr().err
    assert main(["watch", str(run), "--port", "99999"]) == 2
    assert main(["watch", str(run / "nowhere")]) == 2


def test_records_of_an_evaluation_are_no_run_under_way(tmp_path: Path):
    (tmp_path / "manifest.json").write_text(json.dumps({"status": "finished"}))
    (tmp_path / "metrics.jsonl").write_text("")
    with LiveServer(tmp_path, 0) as server:
        assert server.ended
