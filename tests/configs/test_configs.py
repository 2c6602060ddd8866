"""Every file in configs/ says how it is launched, and is launched so, for two batches."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_recipe.cli import RecipeCLI, main
from lightning_rules.record import FILE, read_findings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LIMITS = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2, "log_every_n_steps": 1}
LIMITS |= {"enable_progress_bar": "false", "enable_model_summary": "false"}
QUICK = ["--check_budget=1", "--report=json"]  # the page of a report has tests of its own
TEST_IMAGES = 179  # a tenth of 1,797: odd, so that two processes cannot share them without padding


def head(config: Path) -> dict[str, str]:
    """The head comment, by its words: Purpose, Launch, Limits."""
    lines = config.read_text().split("\n")
    comment = "\n".join(line[1:] for line in lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))])
    parts = re.split(r"^ (Purpose|Launch|Limits):", comment, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def launch_line(config: Path) -> tuple[dict[str, str], list[str]]:
    """The environment and the arguments of `scripts/train.py` in the launch line, with the limits."""
    words = shlex.split(head(config)["Launch"])
    start = words.index("python")
    assert words[start + 1] == "scripts/train.py"
    limits = [*(f"--trainer.{name}={value}" for name, value in LIMITS.items()), *QUICK]
    return dict(word.split("=", 1) for word in words[:start]), [*words[start + 2 :], *limits]


@pytest.fixture
def launch(tmp_path: Path) -> None:
    """A folder as a user has it: configs/ below, and images and a table in data/."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")


def run(config: Path, monkeypatch: pytest.MonkeyPatch) -> RecipeCLI:
    environment, arguments = launch_line(config)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *arguments])
    return main()


def logged(log_dir: str | None) -> set[str]:
    """The names of all metrics in the CSV log that have a value."""
    with Path(str(log_dir), "metrics.csv").open() as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


def make_images(folder: Path, classes: int, each: int) -> None:
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class_{label}").mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class_{label}" / f"{index}.png")


def make_table(path: Path, rows: int) -> None:
    """Two numbers, some of which are missing, and a colour of three: six features."""
    generator = np.random.default_rng(0)
    lines = ["kind,length,width,colour"]
    for index in range(rows):
        length, width = generator.normal(loc=index % 3, size=2).round(3)
        lines.append(f"{'abc'[index % 3]},{length if index % 7 else ''},{width},{('red', 'green', 'blue')[index % 3]}")
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_config_opens_with_purpose_launch_and_limits(config: Path) -> None:
    comment = head(config)
    assert list(comment) == ["Purpose", "Launch", "Limits"]
    assert f"configs/{config.name}" in comment["Launch"]
    assert all(len(text) > 20 for text in comment.values())
    assert not [line for line in config.read_text().splitlines() if len(line) > 110 and not line.startswith("# Launch")]


ELSEWHERE = {"ddp", "logger_tensorboard", "logger_wandb"}


@pytest.mark.usefixtures("launch")
@pytest.mark.parametrize("config", [path for path in CONFIGS if path.stem not in ELSEWHERE], ids=lambda path: path.stem)
def test_config_trains_two_batches(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(Path("data/images"), classes=5, each=20)
    make_table(Path("data/table.csv"), rows=200)
    cli = run(config, monkeypatch)
    assert cli.trainer.global_step == 2
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= logged(cli.trainer.log_dir)
    assert str(cli.trainer.log_dir).startswith("logs/")
    checkpoints = Path(str(cli.trainer.log_dir), "checkpoints")
    assert {path.name for path in checkpoints.iterdir()} == {
        "best-epoch000.ckpt",
        "best-epoch000.ckpt.json",
        "last.ckpt",
        "last.ckpt.json",
    }
    tested = "examples right" in capsys.readouterr().out
    assert tested == ("test_after_fit: true" in config.read_text() or "configs/digits.yaml" in sys.argv)
    stops_early = any(type(callback).__name__ == "EarlyStopping" for callback in cli.trainer.callbacks)  # type: ignore[attr-defined]
    assert stops_early == (config.stem == "regularise")


@pytest.mark.usefixtures("launch")
def test_tensorboard_gets_the_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cli = run(ROOT / "configs" / "logger_tensorboard.yaml", monkeypatch)
    assert re.fullmatch(r"logs/digits/version_\d+", str(cli.trainer.log_dir))
    events = EventAccumulator(str(cli.trainer.log_dir)).Reload()
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy"} <= set(events.Tags()["scalars"])
    [point] = events.Scalars("test/accuracy")
    assert point.value == pytest.approx(float(cli.trainer.callback_metrics["test/accuracy"]))


@pytest.mark.usefixtures("launch")
def test_wandb_runs_offline_and_keeps_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    try:
        cli = run(ROOT / "configs" / "logger_wandb.yaml", monkeypatch)
    finally:
        wandb.finish()
        wandb.teardown()  # waits for the process that writes the file
    [folder] = Path("logs/wandb").glob("offline-run-*")
    [record] = folder.glob("run-*.wandb")
    content = record.read_bytes()
    for metric in (b"train/loss", b"val/accuracy", b"test/accuracy"):
        assert metric in content
    assert {"train/loss", "test/accuracy"} <= logged(cli.trainer.log_dir), "and the plain files beside it"


@pytest.mark.slow
def test_ddp_tests_each_image_once_and_prints_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the script, which Lightning starts a second time for the second process."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    _, arguments = launch_line(ROOT / "configs" / "ddp.yaml")
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("Test accuracy") == 1
    for noise in ("Tip:", "LeafSpec", "Warning", "Be aware"):
        assert noise not in done.stderr
    [right] = re.findall(rf"(\d+) of {TEST_IMAGES} examples right", done.stdout)
    # The same checkpoint, tested by one process that never was under DDP, says the same.
    [log_dir] = re.findall(r"^Logs +(\S+)$", done.stdout, re.MULTILINE)
    one = ["--trainer.devices=1", "--trainer.strategy=auto", f"--ckpt_path={log_dir}/checkpoints/best-epoch000.ckpt"]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "test", f"--config={log_dir}/config.yaml", *one])
    main()
    assert f"{right} of {TEST_IMAGES} examples right" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("launch")
def test_two_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same prior and the same share of clipped steps, at the same global batch."""
    shared = ["fit", "--config=configs/digits_rnn.yaml", "--trainer.max_epochs=2", "--test_after_fit=false", *QUICK]
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", *shared, "--trainer.accelerator=cpu"])
    main()
    ddp = ["--config=configs/ddp.yaml", "--data.batch_size=16"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *shared, *ddp]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("gradient-clipping: Clipped") == 1, "rank 0 prints"
    one, two = (read_findings(Path(f"logs/digits_rnn/version_{i}", FILE)) for i in range(2))
    for rule in ("last-layer-bias-init", "gradient-clipping", "loss-at-init"):
        alone, together = ([found for found in run if found.rule == rule][-1] for run in (one, two))
        assert together.evidence == pytest.approx(alone.evidence, rel=1e-3)
        assert together.message == alone.message
    (clipping,) = [found.evidence for found in two if "clipped_share" in found.evidence]
    assert clipping["steps"] == 78
    assert 0 < float(clipping["clipped_share"] or 0) < 1
