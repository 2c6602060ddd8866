"""How members are started and watched, with real processes that do something else than train."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_recipe.runs import emit, pool
from lightning_recipe.runs.fit import Fit
from lightning_recipe.runs.manifest import Entry
from lightning_recipe.runs.pool import Places
from lightning_recipe.runs.procedure import script_words, visible_gpus

# `fit --config FOLDER/member_0.yaml`, where the file holds statements that see `record`, `attempt` and `name`.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
config = Path(sys.argv[3])
name, count = config.stem, config.with_suffix(".count")
attempt = int(count.read_text()) if count.exists() else 0
count.write_text(str(attempt + 1))
def record(**told): config.with_suffix(".json").write_text(json.dumps(told))
record(status="running")
print("begins", attempt, flush=True)
start = time.time()
exec(config.read_text())
record(status="finished", start=start, end=time.time(), gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    (tmp_path / "train.py").write_text(SCRIPT)
    return [sys.executable, "-S", str(tmp_path / "train.py")]


def members(*statements: str) -> list[Fit]:
    made = []
    for number, statement in enumerate(statements):
        member = Fit(Path("all"), f"member_{number}", {})
        member.config.parent.mkdir(exist_ok=True)
        member.config.write_text(statement)
        made.append(member)
    return made


def statuses(made: list[Fit]) -> list[str]:
    return [member.entry.read()["status"] for member in made]


def most_at_once(made: list[Fit]) -> int:
    times = [(member.entry.read()["start"], member.entry.read()["end"]) for member in made]
    return max(sum(start <= moment <= end for start, end in times) for moment, _ in times)


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_at_once_than_asked_for(script: list[str], jobs: int) -> None:
    made = members(*["time.sleep(0.5)"] * 3)
    pool.train_apart(made, 0, Places(script, jobs, ["4", "7"] if jobs == 2 else []))
    assert statuses(made) == ["finished"] * 3
    assert most_at_once(made) == jobs
    gpus = [member.entry.read()["gpu"] for member in made]
    assert gpus[:2] == (["4", "7"] if jobs == 2 else [None, None]), "one each"


def test_failures_are_tried_again_and_then_left(script: list[str], capsys: Capture) -> None:
    once = "if attempt < 1: os.kill(os.getpid(), signal.SIGKILL)"
    made = members(once, "print('what it says'); 1 / 0", "pass", "sys.exit(3)")
    pool.train_apart(made, 1, Places(script, 2))
    assert statuses(made) == ["finished", "failed", "finished", "failed"]
    assert [Path("all", f"member_{k}.count").read_text() for k in range(4)] == ["2", "2", "1", "2"]
    assert made[1].entry.read()["error"] == "ended with status 1: ZeroDivisionError: division by zero"
    assert "what it says" in made[1].log.read_text()
    assert made[3].entry.read()["error"].startswith("ended with status 3")
    said = capsys.readouterr()
    assert "member_0 failed" in said.err
    assert "killed by signal 9" in said.err
    assert "member_0 starts (attempt 2); it prints to all/member_0/output.log" in said.out


def test_finished_members_and_those_of_others_are_left_alone(script: list[str], capsys: Capture) -> None:
    made = members("1 / 0", "1 / 0")
    made[0].entry.write({"status": "finished"})
    assert made[1].entry.claim() is None
    pool.train_apart(made, 1, Places(script, 2))
    assert not list(Path("all").glob("*.count"))
    assert "member_1 is being trained by process" in capsys.readouterr().out


def test_an_old_reason_is_forgotten(script: list[str]) -> None:
    made = members("pass")
    made[0].entry.write({"status": "failed", "error": "an old reason"})
    (script_file := Path(script[-1])).write_text("import sys; sys.exit('a new reason')")
    pool.train_apart(made, 0, Places([sys.executable, "-S", str(script_file)]))
    assert made[0].entry.read()["error"] == "ended with status 1: a new reason"


def test_those_still_running_end_with_it(script: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = members("time.sleep(60)")

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.time, "sleep", interrupted)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.train_apart(made, 0, Places(script, 1))
    assert time.monotonic() - start < 30


def test_gpus_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]


def test_words_before_the_subcommand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "ignore", "-m", "package", "ensemble", "--members", "3"])
    assert script_words("ensemble") == [sys.executable, "-W", "ignore", "-m", "package"]


def test_the_slurm_script_starts_each_member(script: list[str], tmp_path: Path) -> None:
    made = members("pass", "pass")
    text = emit.as_slurm(made, script, ["python", "train.py", "ensemble"])
    assert "#SBATCH --array=0-1" in text
    (tmp_path / "array.sh").write_text(f'srun() {{ "$@"; }}\n{text}\n')
    for task in ("0", "1"):
        assert statuses(made)[int(task)] == "waiting"
        subprocess.run(["bash", "array.sh"], check=True, env={"SLURM_ARRAY_TASK_ID": task})
        assert Entry(Path(f"all/member_{task}.json")).read()["status"] == "finished"


def test_commands_train_each_member(script: list[str]) -> None:
    made = members("pass", "pass")
    text = emit.as_commands(made, script, ["python", "a b"])
    assert text.splitlines()[-1] == "# when they have ended: python 'a b'"
    subprocess.run(["bash", "-c", text], check=True)
    assert statuses(made) == ["finished", "finished"]
    assert json.loads(Path("all/member_1.json").read_text())["gpu"] is None
