"""`Configured`: the base of components that are built from validated options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from genflow.schema import Schema, validate


class Configured:
    """Base of components that are built from an immutable, validated `Config`."""

    class Config(Schema):
        """The options of this component, where an unknown key is an error."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config if config is not None else self.Config()

    @classmethod
    def from_config(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build the component from the values of its options.

        Args:
            values: option -> value.
            where: prefix of error messages, by default the name of the class.

        Raises:
            GenflowError: a value is invalid or a key is unknown.
        """
        return cls(validate(cls.Config, values, where or cls.__name__))
