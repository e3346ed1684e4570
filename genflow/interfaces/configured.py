"""A component that is built from validated options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from genflow.schema import Schema, validate


class Configured:
    """A component that is built from a frozen, validated `Config`."""

    class Config(Schema):
        """Options of this component; unknown keys are refused."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build from plain values.

        Raises:
            GenflowError: a value is wrong or a key unknown; `where` leads the message.
        """
        return cls(validate(cls.Config, values, where or cls.__name__))
