"""What tslaw tells a user when something is wrong: what, where, what was expected, what to do."""

from __future__ import annotations


class TslawError(Exception):
    """A fault in the user's input or surroundings, not in tslaw: the command line prints it and exits with status 2.

    Parameters
    ----------
    what : one sentence saying what is wrong.
    where : the file, key or argument at fault.
    expected : what would have been right.
    fix : what the user can do about it.
    """

    exit_status = 2

    def __init__(
        self, what: str, *, where: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("expected", self.expected), ("to do", self.fix)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)


class MissingExtraError(TslawError):
    """An optional dependency of tslaw is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"This needs the package '{package}', which is not installed.",
            expected=f"tslaw installed with its '{extra}' extra",
            fix=f"pip install 'tslaw[{extra}]'",
        )
