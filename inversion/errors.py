"""What can go wrong, as exceptions.

ValueError
└── InversionError      bad input: the message names what came, what fits and what to do
    ├── DivergedError   the model gave values that are not finite
    └── TakenError      there is a file of that name already
"""


class InversionError(ValueError):
    """An input does not fit. The message names what came, what would fit and what to do."""


class DivergedError(InversionError):
    """A step gave NaN or infinity."""


class TakenError(InversionError):
    """A file of that name exists; it is left as it is."""
