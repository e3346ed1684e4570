"""The page of hypergrids: a policy is generated at every move of a slider."""

from __future__ import annotations

from nicegui import ui

from genflow import GenflowError

from . import tasks
from .widgets import Dial, frame, message
from .work import Latest, Worker

#: a structure's field -> low, high, value, step and what it is, within what the generator that ships covers
FIELDS: dict[str, tuple[float, float, tuple[float, ...], float, str, str]] = {
    "ndim": (1, 6, (2,), 1, "n", "dimensions"),
    "height": (2, 64, (8,), 1, "h", "positions of each"),
    "R0": (0.001, 0.1, (0.1,), 0.05, "R0", "paid everywhere"),
    "R1": (0.2, 1, (0.5,), 0.05, "R1", "more in the outer region"),
    "R2": (0.5, 4, (2.0,), 0.1, "R2", "more in the band"),
    "outer": (0.15, 0.3, (0.25,), 0.01, "outer", "where the outer region begins"),
    "band": (0.15, 0.45, (0.3, 0.4), 0.01, "band", "where the band lies"),
    "width": (32, 128, (128,), 1, "width", "of the policy's layers"),
}
LOGARITHMIC = ("R0",)
#: what the pictures show of so many dimensions, and of more
AXES = {1: "", 2: " Across is the first dimension, up the second."}
MORE_AXES = " The pictures show the first two dimensions, summed over the others."


def start() -> tasks.Fields:
    """The fields that the page begins with."""
    return tuple((key, value[0] if len(value) == 1 else value) for key, (_, _, value, *_) in FIELDS.items())


class GridPage:
    """The page of one visitor."""

    def __init__(self, worker: Worker) -> None:
        client = ui.context.client
        self._latest = Latest(worker, lambda: not client.is_deleted)
        self._policy = self._draw = 0
        with frame("/"):
            ui.html("<h1>A policy for a hypergrid, without training</h1>", sanitize=False)
            with ui.element("div").classes("columns"):
                with ui.element("section").classes("result").props('aria-label="Result"'):
                    self._show_result()
                with ui.element("section").classes("dials").props('aria-label="The hypergrid"'):
                    self._dials = {
                        key: Dial(
                            name,
                            low,
                            high,
                            value,
                            step,
                            self._move,
                            hint=hint,
                            logarithmic=key in LOGARITHMIC,
                        )
                        for key, (low, high, value, step, name, hint) in FIELDS.items()
                    }
        ui.timer(0, self._move, once=True)

    def _show_result(self) -> None:
        with ui.element("div").classes("stage"):
            self._pictures = ui.element("div").classes("pictures")
            with self._pictures:
                self._target, self._generated = (self._panel(name) for name in ("target", "generated"))
            with ui.element("div").classes("scale"):
                ui.label("probability").classes("hint")
                self._scale = ui.html("", sanitize=False).classes("ends")
            with ui.element("div").classes("figures").props('role="status"'):
                self._js, self._seconds = ui.label("-").classes("js"), ui.label("-").classes("seconds")
            self._message = message()
        with ui.element("div").classes("more"):
            self._about = ui.label().classes("hint about")
            with ui.element("div").classes("buttons"):
                ui.button("Another policy", on_click=self._other_policy).props("outline no-caps")
                ui.button("Draw again", on_click=self._draw_again).props("outline no-caps")
            ui.label("Drawn by the policy, one by one:").classes("hint")
            self._drawn = ui.html("", sanitize=False).classes("samples")

    @staticmethod
    def _panel(name: str) -> ui.html:
        with ui.element("figure").classes(name):
            ui.html(name, sanitize=False, tag="figcaption")
            return ui.html("", sanitize=False)

    async def _other_policy(self) -> None:
        self._policy += 1
        await self._move()

    async def _draw_again(self) -> None:
        self._draw += 1
        await self._move()

    def _fields(self) -> tasks.Fields:
        read = {key: dial.read() for key, dial in self._dials.items()}
        return tuple((key, value[0] if len(value) == 1 else value) for key, value in read.items())

    async def _move(self) -> None:
        try:
            fields = self._fields()
        except GenflowError as error:
            self._say(error)
            return
        self._pictures.classes(add="stale")
        await self._latest.ask(self._show, tasks.grid, fields, self._policy, self._draw)

    def _say(self, error: GenflowError) -> None:
        self._message.set_text(str(error))
        self._message.classes(add="wrong")
        self._pictures.classes(add="stale")

    def _show(self, answer: tasks.Grid | GenflowError) -> None:
        try:
            self._fields()  # what was typed meanwhile may be wrong, and then stays the message
        except GenflowError as error:
            answer = error
        if isinstance(answer, GenflowError):
            self._say(answer)
            return
        self._message.set_text(" ".join(answer.notes))
        self._message.classes(remove="wrong")
        if not self._latest.busy:
            self._pictures.classes(remove="stale")
        self._target.set_content(answer.target)
        self._generated.set_content(answer.generated)
        self._scale.set_content(answer.scale)
        self._js.set_text(f"JS {answer.js:.3g}")
        self._seconds.set_text(f"generated in {answer.generating:.2f} s")
        self._about.set_text(
            f"Jensen-Shannon divergence in nats, exact over all {answer.states:,} positions: 0 is perfect,"
            f" 0.693 the worst. Computed in {answer.comparing:.2f} s.{AXES.get(answer.ndim, MORE_AXES)}"
        )
        items = "".join(f'<li style="--k:{k}">{each}</li>' for k, each in enumerate(answer.drawn))
        self._drawn.set_content(f'<ol aria-label="Drawn by the policy">{items}</ol>')
