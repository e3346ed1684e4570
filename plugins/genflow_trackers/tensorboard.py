"""Event files of TensorBoard, in the folder of each training: ``tensorboard --logdir OUT`` shows them all."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import genflow
from genflow_trackers.needs import need

#: the tag of the text
OPTIONS = "options"


class TensorBoard(genflow.Tracker):
    """Scalars, and the options of the training as a text, in an event file for each time that it is begun."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._events, self._summaries, self._records, self._reader = need(
            "tensorboard",
            "tensorboard.compat.proto.event_pb2",
            "tensorboard.compat.proto.summary_pb2",
            "tensorboard.summary.writer.record_writer",
            "tensorboard.backend.event_processing.event_file_loader",
        )
        self._file: io.RawIOBase | None = None

    def open(self, folder: Path, facts: Mapping[str, Any]) -> Mapping[str, int]:
        """Read the event files that are there; another is begun with the first figures."""
        self._folder, self._facts = folder, facts
        last: dict[str, int] = {}
        for path in sorted(folder.glob("events.out.tfevents.*")):
            for event in self._reader.LegacyEventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    last[value.tag] = max(last.get(value.tag, 0), event.step)
        self._told = OPTIONS in last
        return last

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write scalars, which are in the file when this returns."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._file = open(self._folder / name, "xb", buffering=0)  # noqa: SIM115  open until `close`
            self._write(file_version="brain.Event:2")
            if not self._told:
                self._write(summary=self._summaries.Summary(value=[self._text(OPTIONS, self._facts)]))
        values = [self._summaries.Summary.Value(tag=k, simple_value=v) for k, v in figures.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, **what: Any) -> None:
        """Append an event in one piece, so that a process that is killed leaves no half of it."""
        assert self._file is not None
        record = io.BytesIO()
        event = self._events.Event(wall_time=time.time(), **what)
        self._records.RecordWriter(record).write(event.SerializeToString())
        self._file.write(record.getvalue())

    def _text(self, tag: str, data: Mapping[str, Any]) -> Any:
        """A text as TensorBoard's plugin of texts reads it: Markdown, here of code."""
        lines = json.dumps(data, indent=1).splitlines()
        value = self._summaries.Summary.Value(tag=tag)
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.dtype = 7  # a string
        value.tensor.tensor_shape.dim.add(size=1)
        value.tensor.string_val.append("\n".join(f"    {line}" for line in lines).encode())
        return value
