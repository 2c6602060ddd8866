"""The hub path of timm, against a server on this machine that speaks the hub's protocol.

Each case runs in a process of its own, because huggingface_hub reads its environment when it is imported.
"""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

MODEL, OTHER = "test_resnet", "test_vit"
REPOSITORY = "timm/test_resnet.r160_in1k"
NOBODY = "http://127.0.0.1:9"  # nothing listens on the discard port
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CREATE = """
import sys, time
from lightning_recipe.models import ImageClassifier
for name, num_classes in zip(sys.argv[1::2], sys.argv[2::2]):
    started = time.monotonic()
    try:
        backbone = ImageClassifier(name, int(num_classes), pretrained=True).backbone
        outcome = f"{backbone.conv1[0].weight.double().mean().item()} {len(backbone.get_classifier().weight)}"
    except Exception as error:
        outcome = f"{type(error).__name__} {error}"
    print(f"{time.monotonic() - started:.3f} {outcome}")
"""


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers HEAD and GET of `/REPOSITORY/resolve/main/FILE` as the hub does, and notes what was asked."""

    files: dict[str, bytes]
    asked: list[str]

    def _answer(self, with_body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        name = self.path.partition(f"/{REPOSITORY}/resolve/")[2].partition("/")[2]
        content = self.files.get(name)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of ImageNet's size for the tiny model, with weights of our own making."""
    path = tmp_path_factory.mktemp("made") / "model.safetensors"
    model = timm.create_model(MODEL)
    model.conv1[0].weight.data.fill_(0.5)
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def hub(made: Path) -> Iterator[tuple[str, type[_Hub]]]:
    handler = type("Hub", (_Hub,), {"files": {"model.safetensors": made.read_bytes()}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def _create(endpoint: str, *models: str, **environment: str) -> list[str]:
    """Create pretrained models (name, classes, name, classes, ...); return what came of each within 15 s."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-c", CREATE, *models],
        env={**kept, "HF_HOME": str(Path("hub").absolute()), "HF_ENDPOINT": endpoint, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    outcomes = [line.partition(" ") for line in done.stdout.splitlines()]
    assert len(outcomes) == len(models) // 2
    assert all(float(seconds) < 15 for seconds, _, _ in outcomes), done.stdout
    return [outcome for _, _, outcome in outcomes]


def _names_the_three_ways_out(outcome: str) -> bool:
    ways = ("pretrained: false", "weights: FILE", "HF_HOME")
    return outcome.startswith("ConnectionError pretrained: true needs") and all(way in outcome for way in ways)


@pytest.mark.slow
def test_weights_come_from_the_hub_once_and_then_from_its_cache(hub: tuple[str, type[_Hub]]) -> None:
    endpoint, handler = hub
    found, absent = _create(endpoint, MODEL, "3", OTHER, "3")
    assert found == "0.5 3"
    assert _names_the_three_ways_out(absent)
    assert "404" in absent
    downloads = [line for line in handler.asked if line.startswith("GET") and "/resolve/" in line]
    assert len(downloads) == 1
    assert REPOSITORY in downloads[0]

    asked = len(handler.asked)
    for environment in ({"HF_ENDPOINT": NOBODY}, {"HF_HUB_OFFLINE": "1"}):
        cached, refused = _create(endpoint, MODEL, "1000", OTHER, "3", **environment)
        assert cached == "0.5 1000"
        assert _names_the_three_ways_out(refused)
        assert OTHER in refused
    assert len(handler.asked) == asked


@pytest.mark.slow
def test_a_network_that_swallows_packets_is_given_up_within_15_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, but never answers
        (refused,) = _create(f"http://127.0.0.1:{silent.getsockname()[1]}", MODEL, "3")
    assert _names_the_three_ways_out(refused)
