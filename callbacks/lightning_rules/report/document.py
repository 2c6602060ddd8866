"""What a report is made of, as a file: ``rules/report.json`` of a run, from which its page can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_rules.exhibit import Exhibit
from lightning_rules.finding import Finding
from lightning_rules.report.score import Score
from lightning_rules.report.series import Series

FORMAT = 1
JSON = "rules/report.json"
HTML = "rules/report.html"
RUNNING, FINISHED = "running", "finished"


@dataclass
class Document:
    """A run, as far as it has come.

    Attributes:
        run: Its name: ``"digits/version_3"``.
        state: ``"running"``, ``"finished"``, or why it ended before: ``"failed: ValueError: ..."``.
        started: ISO 8601, UTC.
        updated: The same, of this file.
        progress: ``epoch``, ``epochs`` (planned, None without end), ``step``, ``steps`` (planned or None).
        findings: Of all rules, in their order.
        rules: For each rule that took part its ``name``, ``kind``, ``says`` (its first line) and ``source``.
        score: The number by which the run is judged; None where it logs none.
        metrics: What the run logged at the ends of epochs, by name.
        series: What the rules measured while it trained, and learning rates, by name: ``"gradient_norm/total"``.
        exhibits: What the rules show.
        tested: Metrics of the test that followed; empty without.
        cost: ``seconds`` of the run, ``batch_seconds`` of a batch, ``sampled_batch_seconds`` of one that the monitors
            look at, ``monitor_seconds`` of all they did, ``peak_bytes`` of the process, ``device_peak_bytes`` of its
            graphics card, ``joules``; what is not known is missing.
        record: What brings the run back: ``command``, ``config``, ``seed``, ``versions``, ``code``, ``data``,
            ``checkpoint`` (the best) and its ``tag``.
    """

    run: str = ""
    state: str = RUNNING
    started: str = ""
    updated: str = ""
    progress: dict[str, int | None] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    rules: list[dict[str, str]] = field(default_factory=list)
    score: Score | None = None
    metrics: dict[str, Series] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    exhibits: list[Exhibit] = field(default_factory=list)
    tested: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def is_unfinished(self) -> bool:
        """Whether the run had not ended when this was written: it goes on, or was killed."""
        return self.state == RUNNING

    def to_json(self) -> str:
        """As a text that any JSON reader takes."""
        values = {
            **vars(self),
            "format": FORMAT,
            "findings": [one.to_dict() for one in self.findings],
            "score": None if self.score is None else asdict(self.score),
            "metrics": {name: asdict(one) for name, one in self.metrics.items()},
            "series": {name: asdict(one) for name, one in self.series.items()},
            "exhibits": [one.to_dict() for one in self.exhibits],
        }
        return json.dumps(_finite(values), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Document:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The text is no such document, or that of a later version of this package.
        """
        try:
            values = json.loads(text)
            version = values.pop("format")
            if version == FORMAT:
                return cls(**_read(values))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report of lightning-rules ({type(error).__name__}: {error})") from error
        raise ValueError(f"a report of format {version}, and this version of lightning-rules reads {FORMAT}")

    @classmethod
    def read(cls, folder: Path) -> Document:
        """The document of a run's folder, or of its ``rules/report.json``.

        Raises:
            FileNotFoundError: There is none; the message says what was looked for and what writes it.
            ValueError: The file is none of these, or of a later version of this package.
        """
        path = folder if folder.is_file() else folder / JSON
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no report in {folder}: expected the file {JSON}, which a fit with the callback ReportCard "
                "(of `recommended()`) writes into the run's log folder; give the folder of such a run."
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is {error}; was it edited?") from error


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    score = values["score"]
    return {
        **values,
        "findings": [Finding.from_dict(one) for one in values["findings"]],
        "score": None if score is None else Score(**score),
        "metrics": {name: Series(**one) for name, one in values["metrics"].items()},
        "series": {name: Series(**one) for name, one in values["series"].items()},
        "exhibits": [Exhibit.from_dict(one) for one in values["exhibits"]],
    }


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become null."""
    if isinstance(value, float):
        return value if abs(value) <= 1.7e308 else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value
