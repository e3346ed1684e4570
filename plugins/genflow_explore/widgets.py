"""What both pages are made of: the frame, and numbers that are set by a slider or typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

from nicegui import ui

from genflow import GenflowError

#: what is added to the name of each box, of one or of two
ENDS = {1: ("",), 2: (" from", " to")}
PAGES = {"/": "Hypergrid", "/molecules": "Molecules"}


@contextmanager
def frame(path: str) -> Iterator[None]:
    """The page around what is written inside."""
    ui.add_css((resources.files(__package__) / "page.css").read_text(encoding="utf-8"))
    ui.colors(primary="#1f5fa8")
    ui.page_title(f"genflow: {PAGES[path].lower()}")
    with ui.element("header"):
        ui.label("genflow").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for target, name in PAGES.items():
                ui.link(name, target).props('aria-current="page"' if target == path else "")
    with ui.element("main"):
        yield


def message() -> ui.label:
    """A sentence of the page's, which is read out when it changes."""
    return ui.label().classes("message").props('role="status" aria-live="polite"')


class Dial:
    """A number, or the two ends of a range, set by a slider or typed.

    Attributes:
        name: what stands before it.
        low, high: between which it lies.
    """

    def __init__(
        self,
        name: str,
        low: float,
        high: float,
        value: tuple[float, ...],
        step: float,
        changed: Callable[[], Any],
        *,
        hint: str = "",
        logarithmic: bool = False,
    ) -> None:
        """Show it.

        Args:
            name: see above.
            low, high: see above.
            value: one number, or two.
            step: of the slider; of a logarithmic one in powers of ten.
            changed: called, and awaited, at every move.
            hint: what it means, below its name.
            logarithmic: whether the slider is.
        """
        self.name, self.low, self.high = name, low, high
        self._whole, self._logarithmic, self._changed = step >= 1, logarithmic, changed
        self._moving = False
        with ui.element("div").classes("dial"):
            with ui.element("div").classes("name"):
                ui.label(name)
                if hint:
                    ui.label(hint).classes("hint")
            low, high = self._place(low), self._place(high)
            places = [self._place(each) for each in value]
            if len(value) == 1:
                self._slider: Any = ui.slider(
                    min=low, max=high, step=step, value=places[0], on_change=self._slid
                )
            else:
                ends = {"min": places[0], "max": places[1]}
                self._slider = ui.range(min=low, max=high, step=step, value=ends, on_change=self._slid)
            self._slider.props(f'aria-label="{name}"')
            with ui.element("div").classes("numbers"):
                self._numbers = [
                    ui.number(value=each, format="%.6g", on_change=self._typed)
                    .props("dense outlined debounce=250 hide-bottom-space")
                    .props(f'aria-label="{name}{end}"')
                    for each, end in zip(value, ENDS[len(value)], strict=True)
                ]

    def _place(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def _value(self, place: float) -> float:
        return float(f"{10**place:.2g}") if self._logarithmic else round(place, 6)

    def _slid(self) -> Any:
        if self._moving or self._slider.value is None:
            return None
        place = self._slider.value
        places = [place["min"], place["max"]] if isinstance(place, dict) else [place]
        return self._set(
            lambda: [n.set_value(self._value(p)) for n, p in zip(self._numbers, places, strict=True)]
        )

    def _typed(self) -> Any:
        if self._moving:
            return None
        try:
            places = [self._place(each) for each in self.read()]
        except GenflowError:
            return self._changed()  # which reads it again, and says what is wrong
        value = places[0] if len(places) == 1 else {"min": places[0], "max": places[1]}
        return self._set(lambda: self._slider.set_value(value))

    def _set(self, change: Callable[[], Any]) -> Any:
        self._moving = True  # what follows is no move of the user's
        try:
            change()
        finally:
            self._moving = False
        return self._changed()  # awaited by who called the handler

    def read(self) -> tuple[float, ...]:
        """The number or both ends.

        Raises:
            GenflowError: what is typed is no number, or lies outside.
        """
        found = []
        for box in self._numbers:
            fault = self._fault(box.value)
            box.props(add="error" if fault else "", remove="" if fault else "error")
            found.append((box.value, fault))
        for _, fault in found:
            if fault:
                raise GenflowError(fault)
        values = tuple(int(value) if self._whole else float(value) for value, _ in found)
        if values[0] > values[-1]:
            raise GenflowError(
                f"{self.name} goes from {values[0]:g} to {values[1]:g}; the smaller comes first."
            )
        return values

    def _fault(self, value: Any) -> str | None:
        number = isinstance(value, int | float) and math.isfinite(value)
        if number and self.low <= value <= self.high and not (self._whole and value != int(value)):
            return None
        kind, says = "a whole number" if self._whole else "a number", f"{value:g}" if number else "empty"
        return f"{self.name} must be {kind} from {self.low:g} to {self.high:g}, and is {says}."
