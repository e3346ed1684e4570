"""The page of molecules: blocks to tick, a profile to set, molecules to draw and to keep."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from genflow import GenflowError

from . import tasks
from .widgets import Dial, frame, message
from .work import Latest, Worker

#: a term of a profile -> least, most, value, step and what it is
PROFILE: dict[str, tuple[float, float, tuple[float, float], float, str, str]] = {
    "logp": (-3, 7, (1.5, 3), 0.1, "logP", "soluble in fat rather than water"),
    "tpsa": (0, 200, (40, 70), 1, "TPSA", "polar surface, Å²"),
    "mw": (50, 700, (220, 320), 1, "weight", "g/mol"),
    "qed": (0, 1, (0.75, 1), 0.01, "QED", "how much like a drug, 0 to 1"),
}
#: blocks that are ticked at first, and reward calls of a refinement
TICKED, CALLS = 12, (100, 5000, 500)


class MoleculePage:
    """The page of one visitor."""

    def __init__(self, worker: Worker) -> None:
        client = ui.context.client
        self._latest = Latest(worker, lambda: not client.is_deleted)
        #: what drew the molecules that are shown: fields, seed and the calls of each refinement
        self._made: tuple[tasks.Fields, int, tuple[int, ...]] | None = None
        self._seed, self._table = 0, b""
        self._blocks: list[ui.checkbox] = []
        with frame("/molecules"):
            ui.html("<h1>Molecules for a wish, without training</h1>", sanitize=False)
            with ui.element("div").classes("columns"):
                with ui.element("section").classes("dials").props('aria-label="The wish"'):
                    self._show_wish()
                with ui.element("section").classes("result").props('aria-label="Molecules"'):
                    self._show_result()
        ui.timer(0, self._fill, once=True)

    def _show_wish(self) -> None:
        ui.html("<h2>Profile</h2>", sanitize=False)
        self._dials = {
            key: Dial(name, low, high, value, step, lambda: None, hint=hint)
            for key, (low, high, value, step, name, hint) in PROFILE.items()
        }
        self._size = Dial("blocks", 2, 5, (3,), 1, lambda: None, hint="of a molecule at most")
        ui.html("<h2>Blocks</h2>", sanitize=False)
        with ui.element("div").classes("buttons"):
            self._ticked = ui.label("").classes("hint")
            ui.button("Tick none", on_click=lambda: self._tick(0)).props("flat dense no-caps")
            ui.button("The first 12", on_click=lambda: self._tick(TICKED)).props("flat dense no-caps")
        self._list = ui.element("div").classes("blocks").props('role="group" aria-label="Blocks"')
        with self._list:
            ui.label("The blocks are being drawn ...").classes("hint")

    def _show_result(self) -> None:
        with ui.element("div").classes("buttons"):
            ui.button("Draw molecules", on_click=self._draw).props("unelevated no-caps")
            self._download = ui.button("Download the CSV", on_click=self._keep).props("outline no-caps")
        least, most, value = CALLS
        with ui.element("div").classes("refine"):
            self._calls = Dial(
                "calls", least, most, (value,), 100, lambda: None, hint="of the reward, to refine"
            )
            self._refine = ui.button("Refine", on_click=self._train).props("outline no-caps")
        self._message = message()
        self._summary = ui.label().classes("summary").props('role="status"')
        self._cards = ui.element("div").classes("cards")
        self._able(False)

    async def _fill(self) -> None:
        await self._latest.ask(self._show_blocks, tasks.blocks)
        await self._draw()

    def _show_blocks(self, answer: Any) -> None:
        if isinstance(answer, GenflowError):
            self._show(answer)
            return
        self._list.clear()
        with self._list:
            for number, (smiles, picture) in enumerate(answer):
                box = ui.checkbox(value=number < TICKED, on_change=self._count)
                with box.props("dense").classes("piece"):
                    ui.html(picture, sanitize=False)
                    ui.label(smiles)
                self._blocks.append(box)
        self._count()

    def _tick(self, first: int) -> None:
        for number, box in enumerate(self._blocks):
            box.set_value(number < first)

    def _count(self) -> None:
        self._ticked.set_text(f"{sum(box.value for box in self._blocks)} of {len(self._blocks)} ticked")

    def _able(self, able: bool) -> None:
        for button in (self._download, self._refine):
            button.set_enabled(able)

    def _fields(self) -> tasks.Fields:
        numbers = tuple(number for number, box in enumerate(self._blocks) if box.value)
        if not numbers:
            raise GenflowError("No block is ticked; tick some to make molecules of.")
        ranges = {key: (*dial.read(), dial.low, dial.high) for key, dial in self._dials.items()}
        return (
            ("blocks", numbers),
            ("max_blocks", self._size.read()[0]),
            ("reward", "profile"),
            ("profile", tasks.profile(ranges)),
        )

    async def _draw(self) -> None:
        try:
            made = self._fields(), self._seed, ()
        except GenflowError as error:
            self._show(error)
            return
        self._seed += 1
        await self._ask("Drawing ...", made)

    async def _train(self) -> None:
        try:
            calls = int(self._calls.read()[0])
        except GenflowError as error:
            self._show(error)
            return
        if self._made is not None:
            fields, seed, refined = self._made
            await self._ask(f"Refining for {calls:,} calls ...", (fields, seed, (*refined, calls)))

    async def _ask(self, doing: str, made: tuple[tasks.Fields, int, tuple[int, ...]]) -> None:
        self._message.set_text("")
        self._summary.set_text(doing)
        self._cards.classes(add="stale")
        self._able(False)

        def show(answer: Any) -> None:
            if isinstance(answer, tasks.Molecules):
                self._made = made
            self._show(answer)

        await self._latest.ask(show, tasks.molecules, *made)

    def _show(self, answer: Any) -> None:
        if not self._latest.busy:
            self._able(self._made is not None)
            self._cards.classes(remove="stale")
        if isinstance(answer, GenflowError):
            self._message.set_text(str(answer))
            self._message.classes(add="wrong")
            self._summary.set_text("")
            return
        assert self._made is not None
        self._message.set_text(" ".join(answer.notes))
        self._message.classes(remove="wrong")
        self._table, refined = answer.table, self._made[2]
        how = (
            f"refined with {sum(refined):,} calls, the last {refined[-1]:,} in {answer.making:.1f} s"
            if refined
            else f"generated in {answer.making:.1f} s, with {answer.calls:,} scores to describe the blocks"
        )
        self._summary.set_text(
            f"Mean score {answer.mean:.3f}. The policy was {how}. It drew {tasks.TRAJECTORIES} molecules in"
            f" {answer.drawing:.1f} s, {answer.different} of them different; the best:"
        )
        self._cards.clear()
        with self._cards:
            for each in answer.best:
                with ui.element("article").classes("card"):
                    ui.html(each.picture, sanitize=False)
                    ui.label(f"score {each.score:.3f}").classes("score")
                    ui.label(
                        ", ".join(f"{PROFILE[name][4]} {text}" for name, text in each.facts.items())
                    ).classes("hint")

    def _keep(self) -> None:
        ui.download.content(self._table, "molecules.csv", "text/csv")
